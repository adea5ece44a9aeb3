-- Views: one row per task, attempt and call, for people and SQL tools. Tasks that are not final are PENDING
-- here: what runs just now is known to the broker only (`pyfi ls calls` asks it).

CREATE OR REPLACE VIEW task AS
SELECT b.job || '.' || (b.first + i.i) AS id, b.job, b.first + i.i AS index,
       coalesce(s.name, '#' || b.socket) AS socket, c.repository, c.commit, b.priority,
       coalesce(ledger_state(get_byte(o.states, i.i - o.lo)), 'PENDING') AS state,
       coalesce(ledger_state_code(get_byte(o.states, i.i - o.lo)), 'PD') AS code,
       o.node, o.rank, o.attempt,
       to_timestamp(float8_at(o.started, i.i - o.lo)) AS started,
       to_timestamp(float8_at(o.started, i.i - o.lo) + float4_at(o.durations, i.i - o.lo)) AS ended,
       float4_at(o.durations, i.i - o.lo) AS duration_s,
       to_timestamp(o.settled_at) AS settled, b.batch
FROM task_batch b
CROSS JOIN LATERAL generate_series(0, b.count - 1) AS i (i)
LEFT JOIN LATERAL (
    SELECT * FROM outcome_batch o WHERE o.job = b.job AND o.batch = b.batch AND o.lo <= i.i
    ORDER BY o.lo DESC LIMIT 1
) AS o ON i.i < o.lo + o.count
LEFT JOIN socket s ON s.id = b.socket
LEFT JOIN code c ON c.id = b.code;

CREATE OR REPLACE VIEW attempt AS
SELECT b.job || '.' || (b.first + a.lo) AS id, b.job, b.first + a.lo AS index, a.attempt,
       ledger_cause(a.cause) AS outcome, a.node, a.rank, a.epoch, a.grant_id,
       NULL::timestamptz AS started, to_timestamp(a.failed_at) AS ended, NULL::float8 AS duration_s
FROM attempt_failed a JOIN task_batch b ON b.job = a.job AND b.batch = a.batch
UNION ALL
SELECT b.job || '.' || (b.first + o.lo + i.i), b.job, b.first + o.lo + i.i, o.attempt,
       ledger_state(get_byte(o.states, i.i)), o.node, o.rank, o.epoch, o.grant_id,
       to_timestamp(float8_at(o.started, i.i)),
       to_timestamp(float8_at(o.started, i.i) + float4_at(o.durations, i.i)), float4_at(o.durations, i.i)
FROM outcome_batch o JOIN task_batch b ON b.job = o.job AND b.batch = o.batch
CROSS JOIN LATERAL generate_series(0, o.count - 1) AS i (i)
WHERE o.grant_id <> 0;

CREATE OR REPLACE VIEW call AS
SELECT t.id, t.socket AS name, j.owner, j.name AS job_name, t.state, t.code, t.node, t.rank, t.attempt,
       to_timestamp(j.opened_at) AS submitted, t.started, t.ended, t.duration_s, t.commit, t.job, t.index
FROM task t JOIN job j ON j.id = t.job;

-- A view reads with its owner's rights unless told otherwise, and that can be told from 15 on.
DO $$ BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        ALTER VIEW task SET (security_invoker = true);
        ALTER VIEW attempt SET (security_invoker = true);
        ALTER VIEW call SET (security_invoker = true);
    END IF;
END $$;
