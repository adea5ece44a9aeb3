-- What is there stays as it is: NULL says that the payload is in its row. The writer makes the partitions of blocks.

CREATE TABLE block (
    number BIGINT NOT NULL,
    part SMALLINT NOT NULL,
    data BYTEA NOT NULL,
    CONSTRAINT block_pkey PRIMARY KEY (number, part)
)
 PARTITION BY RANGE (number);
ALTER TABLE block ALTER data SET STORAGE PLAIN;

ALTER TABLE task_batch ADD blocks BIGINT[];
ALTER TABLE task_batch ALTER blocks SET STORAGE EXTERNAL;
ALTER TABLE outcome_batch ADD blocks BIGINT[];
ALTER TABLE outcome_batch ALTER blocks SET STORAGE EXTERNAL;
