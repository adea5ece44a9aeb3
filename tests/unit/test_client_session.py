"""A session against a small broker that loses, delays and refuses: what callers see, and what was sent twice.

The broker is a thread with a real CURVE socket (client_broker.py); its heartbeat is 50 ms.
"""

import json
import os
import threading
import time

import pytest
from client_broker import Broker

from pyfi_hpc.client import session as session_module
from pyfi_hpc.client.executor import Executor
from pyfi_hpc.client.job import attach
from pyfi_hpc.client.session import Session
from pyfi_hpc.errors import (
    BrokerUnreachable,
    LedgerUnavailable,
    LocalProtocolError,
    NotFound,
    Refused,
    RemoteProtocolError,
    SettingsError,
    TooLarge,
    UnknownSocket,
)
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import PROTOCOL_VERSION
from pyfi_hpc.settings import Settings


@pytest.fixture
def broker(tmp_path):
    broker = Broker(tmp_path).start()
    yield broker
    broker.stop()


@pytest.fixture
def session(broker, tmp_path, request):
    session = Session(Settings(home=tmp_path, timeout_s=getattr(request, "param", 30.0)))
    yield session
    session.close()


#: for tests of what is done after a silence of ``timeout_s``; all others may be on a machine that is slow
soon_silent = pytest.mark.parametrize("session", [1.0], indirect=True)


@pytest.fixture
def executor(session):
    return Executor(session=session)


# --- nothing is created twice, nothing is lost --------------------------------------------------------


def test_a_lost_acknowledgement_creates_nothing_twice(broker, executor):
    """The broker admits a call, its Accepted is lost, it moves: the call goes again under the same key."""
    broker.lose_accepted = 1
    future = executor.submit("t.add", 1, 2)
    _until(lambda: broker.count(m.Submit) == 1)
    broker.restart()
    assert future.result(30) == 3
    assert len(broker.jobs) == 1
    submits = [message for message in broker.heard if type(message) is m.Submit]
    assert {submit.key for submit in submits} == {submits[0].key}
    assert [submit.resend for submit in submits] == [False, True]


def test_a_restarted_broker_elsewhere_is_found(broker, executor):
    """Accepted calls are watched again at the new address, unfinished ones finish, new ones go there."""
    broker.hold = True
    futures = [executor.submit("t.square", i) for i in range(10)]
    assert futures[0].id.startswith("1.")
    broker.restart()
    broker.hold = False
    assert [future.result(30) for future in futures] == [i * i for i in range(10)]
    assert executor.submit("t.square", 11).result(30) == 121


def test_an_idle_session_follows_the_broker(broker, executor, session):
    """A broker that moved while nothing was outstanding is found at the first call, without a silence."""
    assert executor.submit("t.square", 1).result(30) == 1
    _until(lambda: not session._talk.outstanding)
    broker.restart()
    started = time.monotonic()
    assert executor.submit("t.square", 2).result(30) == 4
    assert time.monotonic() - started < 1.0


def test_a_broker_that_moved_is_found_after_a_beat_without_answer(tmp_path):
    """With beats a second apart, the real ones: a call that waits is answered from the new address within two more."""
    broker = Broker(tmp_path, heartbeat_s=1.0).start()
    session = Session(Settings(home=tmp_path))
    broker.hold = True
    future = Executor(session=session).submit("t.square", 3)
    assert future.id == "1.0"
    broker.restart()
    broker.hold = False
    started = time.monotonic()
    assert future.result(30) == 9
    assert time.monotonic() - started < 2.5
    session.close()
    broker.stop()


def test_looking_whether_the_broker_has_moved_puts_off_no_new_connection(broker, tmp_path):
    """Both become due in one round after three silent beats: a broker that has not moved is connected to anew."""
    session = Session(Settings(home=tmp_path))
    session._talk.reconnect = True
    session._follow(None, time.monotonic(), moved_only=True)
    assert session._talk.reconnect


def test_lost_results_are_read_from_the_ledger(broker, executor, monkeypatch):
    """Pushes are hints: those that got lost are asked for after a while."""
    monkeypatch.setattr("pyfi_hpc.client.watching.PROBE_S_MIN", 0.1)
    broker.lose_resolved = 1000
    futures = [executor.submit("t.square", i) for i in range(50)]
    assert [future.result(30) for future in futures] == [i * i for i in range(50)]


def test_a_broker_that_forgot_the_client_is_greeted_again(broker, executor):
    """Unknown is answered with Hello, and what was said meanwhile is said again."""
    assert executor.submit("t.square", 1).result(30) == 1
    broker._peers.clear()
    assert executor.submit("t.square", 2).result(30) == 4
    assert broker.count(m.Hello) == 2
    assert len(broker.jobs) == 2


def test_refused_for_now_is_sent_again(broker, executor):
    """retry_after_s >= 0: the caller notices nothing, also when later batches came first and were refused."""
    broker.refuse = [m.Refused(b"", 0, "ledger_unavailable", "down", "", 0.05)] * 3
    assert executor.submit("t.add", 2, 3).result(30) == 5
    broker.refuse = [m.Refused(b"", 0, "ledger_unavailable", "down", "", 0.05)]
    assert list(executor.map("t.square", range(300), chunksize=50)) == [i * i for i in range(300)]
    assert len(broker.jobs) == 2


@soon_silent
def test_refused_for_ever_while_nothing_gets_through_raises(broker, executor, session):
    """After timeout_s of refusals the reason is raised: nothing hangs for ever."""
    broker.refuse = [m.Refused(b"", 0, "ledger_unavailable", "the ledger is down", "", 0.02)] * 1000
    with pytest.raises(Exception, match="the ledger is down"):
        executor.submit("t.add", 2, 3).result(30)


def test_refused_names_class_and_fix(broker, executor):
    """A refusal is the error class of its code with the broker's words, at result and at id."""
    broker.refuse = [m.Refused(b"", 0, "unknown_socket", "there is no socket 't.ad'", "did you mean t.add?")]
    future = executor.submit("t.ad", 1)
    with pytest.raises(UnknownSocket, match="did you mean t.add"):
        future.result(30)
    with pytest.raises(UnknownSocket):
        _ = future.id


# --- silence ------------------------------------------------------------------------------------------


@soon_silent
def test_silence_before_acceptance_raises(broker, executor, session):
    """Calls that were never acknowledged get BrokerUnreachable after timeout_s, as_completed ends too."""
    assert executor.submit("t.square", 1).result(30) == 1
    broker.silent = True
    started = time.monotonic()
    with pytest.raises(BrokerUnreachable, match="silent"):
        executor.submit("t.square", 2).result()
    assert 0.9 < time.monotonic() - started < 20


@soon_silent
def test_a_broker_that_keeps_nothing(broker, executor, session):
    """It lives and acknowledges nothing, as with a ledger that is away: LedgerUnavailable after timeout_s."""
    broker.lose_accepted = 1 << 30
    started = time.monotonic()
    with pytest.raises(LedgerUnavailable, match="kept nothing"):
        executor.submit("t.square", 2).result()
    assert 0.9 < time.monotonic() - started < 20
    broker.lose_accepted = 0
    assert executor.submit("t.square", 3).result(30) == 9


@soon_silent
def test_silence_after_acceptance_names_the_job(broker, executor, session):
    """An accepted call raises too, and says how to get its result later; later it can be had."""
    broker.hold = True
    future = executor.submit("t.square", 3)
    job = future.job
    broker.silent = True
    with pytest.raises(BrokerUnreachable, match=rf"attach\({job}\)"):
        future.result()
    broker.silent = broker.hold = False
    assert attach(f"{job}.0", session=executor.session).get(30) == 9


@soon_silent
def test_a_job_waits_again_after_silence(broker, executor, session):
    """A Job's wait raises after the silence, and goes on when the broker is back."""
    broker.hold = True
    job = attach(executor.submit("t.square", 3).job, session=executor.session)
    broker.silent = True
    with pytest.raises(BrokerUnreachable):
        job.get()
    broker.silent = broker.hold = False
    assert job.get(30) == 9


def test_a_short_silence_goes_unnoticed(broker, executor):
    """Shorter than timeout_s: everything resumes by itself."""
    broker.silent = True
    future = executor.submit("t.square", 3)
    time.sleep(0.4)
    broker.silent = False
    assert future.result(30) == 9


@soon_silent
def test_asking_a_silent_broker_raises(broker, session):
    """A question ends as a call does; a timeout of its own comes first."""
    broker.answers["slow"] = None
    with pytest.raises(TimeoutError):
        session.ask("slow", timeout=0.1)
    broker.silent = True
    with pytest.raises(BrokerUnreachable):
        session.ask("anything")


# --- questions ----------------------------------------------------------------------------------------


def test_answers_are_values_or_errors(broker, session):
    """An answer that is not ok raises the class of its code with what, where and fix."""
    broker.answers["double"] = lambda body: body["n"] * 2
    assert session.ask("double", {"n": 21}) == 42
    with pytest.raises(NotFound, match="no verb nothing") as caught:
        session.ask("nothing")
    assert caught.value.fix == "ask"


def test_a_question_lost_on_the_way_is_asked_again_only_if_that_is_harmless(broker, session):
    """After a lost connection: repeat=True is asked again, others raise, since nobody knows what was done."""
    broker.answers["slow"] = None
    results = []

    def ask(repeat):
        try:
            results.append(session.ask("slow", repeat=repeat))
        except BrokerUnreachable as error:
            results.append(error)

    threads = [threading.Thread(target=ask, args=(repeat,)) for repeat in (True, False)]
    for thread in threads:
        thread.start()
    _until(lambda: broker.count(m.Ask) == 2)
    broker.answers["slow"] = 7
    broker.restart()
    for thread in threads:
        thread.join(30)
    assert 7 in results
    assert any(isinstance(result, BrokerUnreachable) for result in results)


# --- who may connect ----------------------------------------------------------------------------------


def test_another_version_is_told_with_both_numbers(broker, executor, session):
    """A broker that denies the version, or welcomes with another one: an error that names both."""
    broker.denied = m.Denied("version", "this broker speaks protocol 7", "install the same one")
    with pytest.raises(RemoteProtocolError, match=rf"protocol {PROTOCOL_VERSION}: this broker speaks protocol 7"):
        executor.submit("t.square", 1).result(30)
    broker.denied, broker.version = None, 9
    with pytest.raises(RemoteProtocolError, match=rf"protocol 9, this client {PROTOCOL_VERSION}"):
        session.ask("get")
    broker.version = PROTOCOL_VERSION
    assert executor.submit("t.square", 2).result(30) == 4, "a new try may succeed"


def test_no_instance_says_where_it_looked(tmp_path):
    """A missing access file: where it was looked for and what to do."""
    with pytest.raises(BrokerUnreachable, match="pyfi up") as caught:
        Session(Settings(home=tmp_path, instance="other"))
    assert str(tmp_path / "other" / "access.json") in str(caught.value)


def test_an_access_file_that_others_can_read_is_refused(broker, tmp_path):
    """Mode 0640 is refused, and so are files that are damaged."""
    settings = Settings(home=tmp_path, timeout_s=1.0)
    broker.file.chmod(0o640)
    with pytest.raises(Refused, match="others"):
        Session(settings)
    broker.file.chmod(0o600)
    good = broker.file.read_text()
    broker.file.write_text("{")
    with pytest.raises(SettingsError, match="damaged"):
        Session(settings)
    broker.file.write_text(json.dumps({**json.loads(good), "broker_public": "x"}))
    with pytest.raises(SettingsError, match="damaged key"):
        Session(settings).ask("get")


# --- limits -------------------------------------------------------------------------------------------


def test_too_large_names_the_argument(broker, request):
    """Over the limit that the broker told: which argument, and what to do instead."""
    broker.payload_bytes_max = 1000  # told to who says hello from now on
    executor = request.getfixturevalue("executor")
    assert executor.submit("t.size", "x").result(30) == 1
    with pytest.raises(TooLarge, match="argument 1 takes") as caught:
        executor.submit("t.size", 1, b"x" * 2000)
    assert "shared filesystem" in caught.value.fix
    with pytest.raises(TooLarge, match="keyword 'b'"):
        executor.submit("t.size", 1, b=b"x" * 2000)


def test_submissions_wait_for_acknowledgements(broker, executor, session, monkeypatch):
    """At most so many calls are unacknowledged; the caller waits, and goes on."""
    monkeypatch.setattr("pyfi_hpc.client.room.UNACKED_TASKS_MAX", 10)
    most = 0
    original = broker._on_submit

    def watch(peer, message):
        nonlocal most
        most = max(most, session._room.tasks)
        original(peer, message)

    broker._on_submit = watch
    futures = [executor.submit("t.square", i) for i in range(200)]
    assert [future.result(30) for future in futures] == [i * i for i in range(200)]
    assert most <= 10


def test_results_that_were_not_pushed_are_read(broker, executor):
    """A window of 4 kB: the broker stops pushing, the client confirms and reads the rest."""
    broker.window = 4096
    futures = [executor.submit("t.blob", 1000) for _ in range(100)]
    assert all(len(future.result(15)) == 1000 for future in futures)


# --- processes and threads ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_a_session_of_its_own(broker, executor, tmp_path):
    """The child gets a new connection; the parent's goes on; its futures are refused in the child."""
    future = executor.submit("t.never")
    assert future.id
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                future.result(1)
                text = "the parent's future was waited for"
            except LocalProtocolError:
                text = str(executor.submit("t.square", 12).result(30))
        except BaseException as error:
            text = repr(error)
        os.write(write, text.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1000) == b"144"
    assert executor.submit("t.square", 5).result(30) == 25
    os.close(read)
    os.close(write)


def test_waiting_inside_a_callback_is_refused(broker, executor):
    """A callback runs in the session's thread: waiting there would wait for itself, submitting works."""
    seen = []

    def callback(future):
        try:
            executor.submit("t.never").result()
        except LocalProtocolError as error:
            seen.append(error)
        seen.append(executor.submit("t.square", 9))

    executor.submit("t.square", 1).add_done_callback(callback)
    _until(lambda: len(seen) == 2)
    assert seen[1].result(30) == 81


def test_closing_waits_for_acknowledgements(broker, tmp_path):
    """A call that was just submitted is in the ledger when close returns; later use connects again."""
    session = Session(Settings(home=tmp_path, timeout_s=2.0))
    executor = Executor(session=session)
    executor.submit("t.square", 1)
    session.close()
    assert len(broker.jobs) == 1
    assert executor.submit("t.square", 2).result(30) == 4
    session.close()


def test_the_default_session_is_one_per_instance(broker, tmp_path, monkeypatch):
    """current() gives the same session again, found through PYFI_HOME and PYFI_INSTANCE."""
    monkeypatch.setenv("PYFI_HOME", str(tmp_path))
    first = session_module.current()
    assert session_module.current("default") is first
    with pytest.raises(BrokerUnreachable):
        session_module.current("other")
    assert Executor().submit("t.square", 3).result(30) == 9
    session_module.close_all()


def test_an_idle_session_says_nothing(broker, executor, session):
    """No heartbeats while nothing is outstanding."""
    executor.submit("t.square", 1).result(30)
    _until(lambda: not session._talk.outstanding)
    before = len(broker.heard)
    time.sleep(0.3)
    assert len(broker.heard) == before


def _until(true, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
