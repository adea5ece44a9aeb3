"""Every story of tests/stories holds: the machine wants exactly what is written, in that order, and nothing more.

    python tests/unit/test_stories.py --show FILE     prints a story with what really follows from its events
    python tests/unit/test_stories.py --write FILE    writes that into the file
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # when it is run as a program
from story import FOLDER, tell
from story_broker import BrokerTeller
from story_elastic import ElasticTeller
from story_node import AgentTeller, RankTeller

TELLERS = {kind.scene: kind for kind in (BrokerTeller, AgentTeller, RankTeller, ElasticTeller)}
STORIES = sorted(FOLDER.glob("*.story"))


@pytest.mark.parametrize("file", STORIES, ids=lambda file: file.stem)
def test_the_story_holds(file: Path) -> None:
    text = file.read_text()
    assert tell(text, TELLERS).splitlines() == text.rstrip().splitlines()


def test_every_story_says_what_it_is_about() -> None:
    """The first line is a sentence, and there are stories of all machines."""
    scenes = set()
    for file in STORIES:
        text = file.read_text()
        assert text.startswith("# ") and text.partition("\n")[0].endswith((".", ":")), file.name
        scenes |= {line.partition(" ")[0] for line in text.splitlines()} & set(TELLERS)
    assert scenes == set(TELLERS) and len(STORIES) >= 20


def test_a_story_that_lacks_an_effect_or_has_one_too_many_does_not_hold() -> None:
    """Leaving out, adding or changing one line of effects is seen."""
    lines = STORIES[0].read_text().rstrip().splitlines()
    place = next(k for k, line in enumerate(lines) if line.startswith("  "))
    for broken in (
        lines[:place] + lines[place + 1 :],
        [*lines[:place], lines[place], *lines[place:]],
        [*lines[:place], lines[place] + " more", *lines[place + 1 :]],
    ):
        assert tell("\n".join(broken), TELLERS).splitlines() != broken


if __name__ == "__main__":
    for name in sys.argv[2:]:
        told = tell(Path(name).read_text(), TELLERS)
        if sys.argv[1] == "--write":
            Path(name).write_text(told)
        else:
            print(told, end="")
