-- Statements of the desk: what people ask about jobs and tasks. Rows are batches; Python cuts the tasks out.

-- name: closed
SELECT lo, hi FROM closed_range ORDER BY lo

-- name: open_batches
SELECT b.job, b.batch, b.first, b.count, b.socket AS socket_id
FROM unnest(%(lo)s::bigint[], %(hi)s::bigint[]) AS gap (lo, hi)
JOIN task_batch b ON b.batch BETWEEN gap.lo AND gap.hi
WHERE %(job)s::bigint IS NULL OR b.job = %(job)s
ORDER BY b.job DESC, b.first DESC

-- name: batches_before
-- One page of batches, newest first, through the index on (job, first).
SELECT b.job, b.batch, b.first, b.count, b.socket AS socket_id
FROM task_batch b
WHERE (b.job, b.first) < (%(before_job)s, %(before_first)s) AND b.job BETWEEN %(job_from)s AND %(job_to)s
ORDER BY b.job DESC, b.first DESC LIMIT %(limit)s

-- name: batch_heads
SELECT b.batch, b.job, b.first, b.count, b.number, b.priority, b.retries, b.time_limit_s, b.socket AS socket_id,
       coalesce(s.name, '#' || b.socket) AS socket, b.code AS code_id, coalesce(c.repository, '') AS repository,
       coalesce(c.commit, '') AS commit, coalesce(c.module, '') AS module,
       coalesce(c.environment, '') AS environment, j.owner, j.name, j.opened_at
FROM unnest(%(jobs)s::bigint[], %(batches)s::bigint[]) AS w (job, batch)
JOIN task_batch b ON b.job = w.job AND b.batch = w.batch
JOIN job j ON j.id = b.job
LEFT JOIN socket s ON s.id = b.socket
LEFT JOIN code c ON c.id = b.code

-- name: outcomes
SELECT o.job, o.batch, o.lo, o.count, o.attempt, o.epoch, o.grant_id, o.node, o.rank, o.states, o.started,
       o.durations, o.settled_at
FROM unnest(%(jobs)s::bigint[], %(batches)s::bigint[]) AS w (job, batch)
JOIN outcome_batch o ON o.job = w.job AND o.batch = w.batch
ORDER BY o.job, o.batch, o.lo

-- name: final_total
SELECT coalesce(sum(o.count), 0)::bigint AS total
FROM unnest(%(jobs)s::bigint[], %(batches)s::bigint[]) AS w (job, batch)
JOIN outcome_batch o ON o.job = w.job AND o.batch = w.batch

-- name: task_total
SELECT coalesce(sum(count), 0)::bigint AS total FROM task_batch WHERE job BETWEEN %(job_from)s AND %(job_to)s

-- name: states
-- Only the states of final tasks, a byte each.
SELECT states FROM outcome_batch WHERE job BETWEEN %(job_from)s AND %(job_to)s

-- name: spans
-- Ranges of final tasks that touch stretches of a job, in order; as many as hold so many tasks, but at least one.
SELECT first, count, attempt, node, rank, states, started, durations, socket
FROM (SELECT b.first + o.lo AS first, o.count, o.attempt, o.node, o.rank, o.states, o.started, o.durations,
             coalesce(s.name, '#' || b.socket) AS socket,
             sum(o.count) OVER (ORDER BY b.first, o.lo) - o.count AS before
      FROM unnest(%(firsts)s::bigint[], %(ends)s::bigint[]) AS w (first, until)
      JOIN task_batch b ON b.job = %(job)s AND b.first < w.until AND b.first + b.count > w.first
      JOIN outcome_batch o ON o.job = b.job AND o.batch = b.batch
        AND b.first + o.lo < w.until AND b.first + o.lo + o.count > w.first
      LEFT JOIN socket s ON s.id = b.socket
      ORDER BY b.first, o.lo LIMIT %(limit)s) AS page
WHERE before < %(tasks)s ORDER BY first

-- name: failed_attempts
SELECT b.first + a.lo AS index, a.attempt, a.cause, a.node, a.rank, a.failed_at, b.time_limit_s,
       coalesce(s.name, '#' || b.socket) AS socket
FROM attempt_failed a JOIN task_batch b ON b.job = a.job AND b.batch = a.batch
LEFT JOIN socket s ON s.id = b.socket
WHERE a.job = %(job)s ORDER BY a.failed_at DESC LIMIT %(limit)s

-- name: failed_attempts_total
SELECT count(*) AS total FROM attempt_failed WHERE job = %(job)s

-- name: locate
SELECT batch, first, count FROM task_batch
WHERE job = %(job)s AND first <= %(index)s ORDER BY first DESC LIMIT 1

-- name: outcome_of
SELECT lo, count, attempt, epoch, grant_id, node, rank, states, started, durations, offsets,
       ledger_payload(payload, blocks) AS payload, settled_at
FROM outcome_batch
WHERE job = %(job)s AND batch = %(batch)s AND lo <= %(offset)s AND %(offset)s < lo + count
ORDER BY lo DESC LIMIT 1

-- name: attempts_of
SELECT attempt, epoch, grant_id, cause, node, rank, error, failed_at, outputs FROM attempt_failed
WHERE job = %(job)s AND batch = %(batch)s AND lo = %(offset)s ORDER BY attempt, failed_at

-- name: outputs_of
-- Outputs name their offsets: those of a whole message lie with its first range.
SELECT attempt, outputs FROM outcome_batch
WHERE job = %(job)s AND batch = %(batch)s AND octet_length(outputs) > 0 ORDER BY lo

-- name: payload_of
SELECT offsets, ledger_payload(payload, blocks) AS payload FROM task_batch WHERE job = %(job)s AND batch = %(batch)s

-- name: edges_of
SELECT job, batch, edges FROM edge WHERE job = %(job)s AND batch = %(batch)s

-- name: dependents
-- Batches that wait for a job: through the index on producers.
SELECT e.job, e.batch, e.edges, b.first
FROM edge e JOIN task_batch b ON b.job = e.job AND b.batch = e.batch
WHERE e.producers @> ARRAY[%(job)s::bigint] LIMIT %(limit)s

-- name: jobs
SELECT j.id AS job, j.name, j.owner, j.opened_at, coalesce(t.tasks, 0)::bigint AS tasks,
       coalesce(t.batches, 0)::bigint AS batches, coalesce(t.complete, false) AS complete,
       coalesce(t.socket, '') AS socket
FROM (SELECT * FROM job WHERE (%(wanted)s::bigint[] IS NULL OR id = ANY (%(wanted)s::bigint[]))
      AND (%(owner)s::text IS NULL OR owner = %(owner)s) ORDER BY id DESC LIMIT %(limit)s OFFSET %(offset)s) AS j
LEFT JOIN LATERAL (
    SELECT sum(b.count) AS tasks, count(*) AS batches, bool_or(b.last) AS complete, min(s.name) AS socket
    FROM task_batch b LEFT JOIN socket s ON s.id = b.socket WHERE b.job = j.id
) AS t ON true
ORDER BY j.id DESC

-- name: jobs_total
SELECT count(*) FROM job WHERE (%(wanted)s::bigint[] IS NULL OR id = ANY (%(wanted)s::bigint[]))
  AND (%(owner)s::text IS NULL OR owner = %(owner)s)

-- name: job_states
-- A range runs in order, so its first start is its earliest.
SELECT o.job, o.states, substring(o.started FROM 1 FOR 8) AS started, o.durations,
       o.settled_at
FROM unnest(%(jobs)s::bigint[]) AS w (job) JOIN outcome_batch o ON o.job = w.job
