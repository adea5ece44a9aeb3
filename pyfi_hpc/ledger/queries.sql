-- Statements of the hot path, by name. Many rows at a time: lists go in as arrays.

-- name: begin
-- A group commit starts: transaction, fence, the commit's own row and the closed ranges in one round trip.
BEGIN;
SELECT ledger_begin(%(class)s, %(shard)s, %(epoch)s, %(seq)s, %(jobs)s, %(batches)s, %(outcomes)s, %(attempts)s,
                    %(lo)s::bigint[], %(hi)s::bigint[]);

-- name: session
-- How a ledger's connection differs from the server's defaults; a lost client is noticed within some seconds.
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SET idle_in_transaction_session_timeout = '10s';
SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;
SET jit = off

-- name: hold
-- The lock that says "a live broker is here"; it lives as long as the session.
SELECT pg_try_advisory_lock(%(class)s, %(lock)s)

-- name: lock_holders
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = %(class)s AND objid = %(lock)s
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND pid <> pg_backend_pid()

-- name: beat
-- Sent on a session of its own so that others see that this broker lives; tells it who may write and whether
-- anybody holds the live lock.
SELECT nonce, EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = %(class)s AND objid = %(lock)s
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
FROM ledger_epoch WHERE shard = %(shard)s

-- name: look
-- Who holds the live lock; the last beat of who may write, and its age by this server's clock; whether the
-- successor of a restart waits.
SELECT (SELECT min(pid) FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = %(class)s AND objid = %(lock)s
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())),
       beat.at::text, extract(epoch FROM clock_timestamp() - beat.at)::float8,
       EXISTS (SELECT FROM pg_stat_activity
               WHERE application_name = %(successor)s AND datname = current_database() AND pid <> pg_backend_pid())
FROM (SELECT max(a.state_change) AS at
      FROM ledger_epoch e JOIN pg_stat_activity a ON a.application_name = %(beat)s || e.nonce
      WHERE e.shard = %(shard)s AND a.datname = current_database()) AS beat

-- name: end_frozen
-- End the session of a holder whose last beat is too old, unless it has beaten meanwhile.
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = %(class)s AND objid = %(lock)s
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (SELECT max(a.state_change)
       FROM ledger_epoch e JOIN pg_stat_activity a ON a.application_name = %(beat)s || e.nonce
       WHERE e.shard = %(shard)s AND a.datname = current_database())
      < clock_timestamp() - make_interval(secs => %(frozen_s)s)

-- name: terminate
SELECT pg_terminate_backend(pid) FROM unnest(%(pids)s::int[]) AS pid

-- name: holder
SELECT epoch, holder, nonce, since::text FROM ledger_epoch WHERE shard = %(shard)s

-- name: raise_epoch
INSERT INTO ledger_epoch (shard, epoch, holder, nonce) VALUES (%(shard)s, 1, %(holder)s, %(nonce)s)
ON CONFLICT (shard) DO UPDATE SET epoch = ledger_epoch.epoch + 1, holder = excluded.holder,
    nonce = excluded.nonce, since = clock_timestamp()
RETURNING epoch

-- name: committed
SELECT 1 FROM ledger_commit WHERE shard = %(shard)s AND epoch = %(epoch)s AND seq = %(seq)s

-- name: forget_commits
-- Only the commits of the latest epochs can be asked for; a day is kept for people.
DELETE FROM ledger_commit
WHERE shard = %(shard)s AND epoch < %(epoch)s - 2 AND at < clock_timestamp() - interval '1 day'

-- name: forget_old_commits
-- Nobody asks for one so long past; through the primary key.
DELETE FROM ledger_commit WHERE shard = %(shard)s AND epoch = %(epoch)s AND seq < %(seq)s

-- name: partitions
SELECT substring(inhrelid::regclass::text FROM '_p(\d+)$')::bigint
FROM pg_inherits WHERE inhparent = 'block'::regclass

-- name: highest
SELECT coalesce((SELECT max(id) FROM job), 0), coalesce((SELECT max(batch) FROM task_batch), 0)

-- name: highest_block
SELECT coalesce(max(number), 0) FROM block

-- name: closed
SELECT lo, hi FROM closed_range ORDER BY lo

-- name: open_jobs
-- Unfinished work: what lies in the gaps between closed ranges. Through the index on batch, never a full scan.
SELECT DISTINCT b.job
FROM unnest(%(lo)s::bigint[], %(hi)s::bigint[]) AS gap (lo, hi)
JOIN task_batch b ON b.batch BETWEEN gap.lo AND gap.hi
ORDER BY b.job

-- name: jobs
SELECT j.id AS job, j.key, j.owner, j.name, j.shape, j.on_failure, j.opened_at, j.project, j.at_once
FROM unnest(%(jobs)s::bigint[]) AS wanted (job) JOIN job j ON j.id = wanted.job ORDER BY j.id

-- name: job_batches
SELECT b.batch, b.job, b.number, b.first, b.count, b.last, b.socket, b.code, b.priority, b.retries,
       b.time_limit_s, b.preemptible, b.terms, b.size, coalesce(e.edges, '') AS edges
FROM unnest(%(jobs)s::bigint[]) AS wanted (job)
JOIN task_batch b ON b.job = wanted.job
LEFT JOIN edge e ON e.job = b.job AND e.batch = b.batch
ORDER BY b.batch

-- name: job_outcomes
SELECT o.batch, o.job, o.lo, o.count, o.attempt, o.epoch, o.grant_id AS "grant", o.node, o.rank, o.states, o.settled_at
FROM unnest(%(jobs)s::bigint[]) AS wanted (job) JOIN outcome_batch o ON o.job = wanted.job
ORDER BY o.batch, o.lo

-- name: job_attempts
SELECT a.batch, a.job, a.lo AS "offset", a.attempt, a.epoch, a.grant_id AS "grant", a.cause, a.node, a.rank, a.error, a.failed_at
FROM unnest(%(jobs)s::bigint[]) AS wanted (job) JOIN attempt_failed a ON a.job = wanted.job
ORDER BY a.batch, a.lo, a.attempt, a.failed_at

-- name: job_holds
SELECT h.job, h.number, h.on_hold, h.changed_at
FROM unnest(%(jobs)s::bigint[]) AS wanted (job) JOIN job_hold h ON h.job = wanted.job
ORDER BY h.job, h.number

-- name: durations
-- What is known of each kind of task: its latest row.
SELECT DISTINCT ON (socket, code, size) socket, code, size, completed, lead_s, counts, learned_at
FROM duration ORDER BY socket, code, size, epoch DESC, learned_at DESC

-- name: forget_durations
-- All but the latest row of each kind.
DELETE FROM duration d USING duration newer
WHERE (newer.socket, newer.code, newer.size) = (d.socket, d.code, d.size)
  AND (newer.epoch, newer.learned_at) > (d.epoch, d.learned_at)

-- name: find_job
SELECT j.id, j.key, j.owner, j.name, j.shape, j.on_failure, j.opened_at, j.project, j.at_once,
       count(b.batch), coalesce(sum(b.count), 0)::bigint, coalesce(bool_or(b.last), false)
FROM job j LEFT JOIN task_batch b ON b.job = j.id
WHERE j.owner = %(owner)s AND j.key = %(key)s GROUP BY j.id

-- name: payloads
SELECT batch, offsets, ledger_payload(payload, blocks) FROM task_batch WHERE batch = ANY (%(batches)s::bigint[])

-- name: locate_values
-- From tasks to the outcome ranges that hold them, one row per range with the tasks' places in it.
SELECT o.job, o.batch, o.lo, array_agg(w.index), array_agg((w.index - b.first - o.lo)::int)
FROM unnest(%(jobs)s::bigint[], %(indexes)s::bigint[]) AS w (job, index)
CROSS JOIN LATERAL (
    SELECT batch, first, count FROM task_batch WHERE job = w.job AND first <= w.index ORDER BY first DESC LIMIT 1
) AS b
CROSS JOIN LATERAL (
    SELECT job, batch, lo, count FROM outcome_batch
    WHERE job = w.job AND batch = b.batch AND lo <= w.index - b.first ORDER BY lo DESC LIMIT 1
) AS o
WHERE w.index - b.first < least(b.count, o.lo + o.count)
GROUP BY o.job, o.batch, o.lo

-- name: values
SELECT o.job, o.batch, o.lo, o.states, o.offsets, ledger_payload(o.payload, o.blocks)
FROM unnest(%(jobs)s::bigint[], %(batches)s::bigint[], %(los)s::int[]) AS w (job, batch, lo)
JOIN outcome_batch o ON o.job = w.job AND o.batch = w.batch AND o.lo = w.lo

-- name: page_head
-- "Batches may follow" is -1: only the last batch tells how many tasks a job has.
SELECT j.owner, j.name, j.shape,
       coalesce((SELECT CASE WHEN b.last THEN b.first + b.count ELSE -1 END
                 FROM task_batch b WHERE b.job = j.id ORDER BY b.number DESC LIMIT 1), -1)
FROM job j WHERE j.id = %(job)s

-- name: page_sizes
-- Places and sizes first: a size is read without the bytes. That of blocks is an upper bound.
SELECT batch, lo, octet_length(payload) + coalesce(cardinality(blocks), 0) * 64000 + octet_length(offsets) + count
FROM outcome_batch
WHERE job = %(job)s AND (batch, lo) > (%(batch)s, %(lo)s) ORDER BY batch, lo LIMIT %(limit)s

-- name: page
SELECT o.batch, o.lo, b.first + o.lo, o.count, o.states, o.offsets, ledger_payload(o.payload, o.blocks)
FROM outcome_batch o JOIN task_batch b ON b.job = o.job AND b.batch = o.batch
WHERE o.job = %(job)s AND (o.batch, o.lo) > (%(batch)s, %(lo)s) AND (o.batch, o.lo) <= (%(batch_to)s, %(lo_to)s)
ORDER BY o.batch, o.lo

-- name: recorded_jobs
-- Whole tables for a replay. A row's place is its transaction's: it has the same one as the row of its group commit.
SELECT id AS job, key, owner, name, shape, on_failure, opened_at, project, at_once, epoch AS written, -age(xmin) AS place
FROM job ORDER BY id

-- name: recorded_batches
SELECT b.batch, b.job, b.number, b.first, b.count, b.last, b.socket, b.code, b.priority, b.retries, b.time_limit_s,
       b.preemptible, b.terms, b.size, b.offsets, ledger_payload(b.payload, b.blocks) AS payload, coalesce(e.edges, '') AS edges, b.epoch AS written, -age(b.xmin) AS place
FROM task_batch b LEFT JOIN edge e ON e.job = b.job AND e.batch = b.batch ORDER BY b.batch

-- name: recorded_outcomes
SELECT batch, job, lo, count, attempt, epoch, grant_id AS "grant", node, rank, states, offsets,
       ledger_payload(payload, blocks) AS payload, settled_at, epoch AS written, -age(xmin) AS place
FROM outcome_batch ORDER BY batch, lo

-- name: recorded_attempts
SELECT batch, job, lo AS "offset", attempt, epoch, grant_id AS "grant", cause, node, rank, error, failed_at,
       epoch AS written, -age(xmin) AS place
FROM attempt_failed ORDER BY batch, lo, attempt, failed_at

-- name: recorded_commits
SELECT epoch, seq, -age(xmin), jobs, batches, outcomes, attempts FROM ledger_commit ORDER BY shard, epoch, seq
