-- What a broker reads of the objects when it starts, and of the whole ledger when it is asked how it is.

-- name: sockets
-- All sockets whose processor has code; those whose function the code has lost are disabled.
SELECT s.id, s.name, p.name, f.function, coalesce(nullif(s.concurrency, 0), p.concurrency),
       coalesce(nullif(s.priority, 0), q.priority), s.enabled AND p.enabled AND q.enabled AND s.status <> 'missing',
       s.needs, c.id, c.repository, c.commit, c.module, c.environment, c.python, c.workdir
FROM socket s
JOIN processor p ON p.id = s.processor_id
JOIN function f ON f.id = s.function_id
JOIN code c ON c.id = p.code_id
JOIN queue q ON q.id = s.queue_id
ORDER BY s.id

-- name: mounts
-- Where the code of these versions lives: queued tasks may need one that no socket calls any more.
SELECT id, repository, commit, module, environment, python, workdir FROM code
WHERE id = ANY (%(codes)s::bigint[]) ORDER BY id

-- name: shares
-- Weights that somebody has set.
SELECT kind, name, weight FROM share

-- name: ledger
SELECT current_setting('server_version') AS postgres, pg_database_size(current_database()) AS bytes,
       (SELECT count(*) FROM pg_inherits WHERE inhparent = 'task_batch'::regclass) AS partitions,
       (SELECT max(id) FROM job) AS last_job, (SELECT max(batch) FROM task_batch) AS last_batch,
       current_setting('fsync') AS fsync, current_setting('data_checksums') AS data_checksums

-- name: objects
SELECT (SELECT count(*) FROM processor) AS processor, (SELECT count(*) FROM socket) AS socket,
       (SELECT count(*) FROM queue) AS queue, (SELECT count(*) FROM plug) AS plug, (SELECT count(*) FROM node) AS node
