-- When a job was put on hold and released: the latest of its rows counts, and a job without any is not on hold.

CREATE TABLE job_hold (
    job BIGINT NOT NULL,
    number INTEGER NOT NULL,
    on_hold BOOLEAN NOT NULL,
    changed_at DOUBLE PRECISION NOT NULL,
    epoch BIGINT NOT NULL,
    CONSTRAINT job_hold_pkey PRIMARY KEY (job, number)
);
