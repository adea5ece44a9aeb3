-- How long each kind of task took, and the hint by which calls of one function are told apart.

CREATE TABLE duration (
    socket BIGINT NOT NULL,
    code BIGINT NOT NULL,
    size SMALLINT NOT NULL,
    lead_s DOUBLE PRECISION NOT NULL,
    completed BIGINT NOT NULL,
    learned_at DOUBLE PRECISION NOT NULL,
    epoch BIGINT NOT NULL,
    counts BYTEA NOT NULL
);

ALTER TABLE task_batch ADD size DOUBLE PRECISION NOT NULL DEFAULT 0;
