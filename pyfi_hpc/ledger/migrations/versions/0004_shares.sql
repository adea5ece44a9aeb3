-- A share of the ranks: a project's, or a submitter's within each project. Without a row the weight is 1.
CREATE TABLE share (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    weight DOUBLE PRECISION NOT NULL,
    CONSTRAINT share_pkey PRIMARY KEY (kind, name),
    CONSTRAINT share_kind_check CHECK (kind IN ('project', 'user')),
    CONSTRAINT share_weight_check CHECK (weight > 0 AND weight < 'infinity'::float8)
);

ALTER TABLE job ADD COLUMN project TEXT NOT NULL DEFAULT '', ADD COLUMN at_once SMALLINT NOT NULL DEFAULT 0;
-- both were one number: the lowest bit said what a failure does
UPDATE job SET at_once = on_failure >> 1, on_failure = on_failure & 1 WHERE on_failure > 1;

ALTER TABLE task_batch ADD COLUMN preemptible BOOLEAN NOT NULL DEFAULT false;
