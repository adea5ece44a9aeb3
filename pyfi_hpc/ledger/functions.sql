-- Functions and views: they hold no data, so every upgrade replaces them all from this file.

-- The fence and the commit's own row, one round trip. Volatile: each statement inside sees what is committed
-- when it runs, so the compare comes after the lock. A takeover holds the lock exclusively while it raises the epoch.
CREATE OR REPLACE FUNCTION ledger_begin(
    p_class int, p_shard int, p_epoch bigint, p_seq bigint,
    p_jobs int, p_batches int, p_outcomes int, p_attempts int, p_lo bigint[], p_hi bigint[]
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_epoch bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(p_class, p_shard);
    SELECT epoch INTO v_epoch FROM ledger_epoch WHERE shard = p_shard;
    IF v_epoch IS DISTINCT FROM p_epoch THEN
        RAISE EXCEPTION 'epoch % is over, the ledger is at %', p_epoch, v_epoch USING ERRCODE = 'PF001';
    END IF;
    INSERT INTO ledger_commit (shard, epoch, seq, jobs, batches, outcomes, attempts, closed)
    VALUES (p_shard, p_epoch, p_seq, p_jobs, p_batches, p_outcomes, p_attempts, cardinality(p_lo));
    IF cardinality(p_lo) > 0 THEN
        INSERT INTO closed_range SELECT * FROM unnest(p_lo, p_hi);
    END IF;
END $$;

-- Make the n-th partition of the four big tables. Attached, not created in place: that lets readers go on.
CREATE OR REPLACE FUNCTION ledger_partition(p_number bigint, p_jobs bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_table text;
    v_name text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['task_batch', 'outcome_batch', 'attempt_failed', 'edge'] LOOP
        v_name := v_table || '_p' || p_number;
        IF to_regclass(v_name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL EXCLUDING INDEXES)', v_name, v_table);
            EXECUTE format(
                'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                v_table, v_name, p_number * p_jobs, (p_number + 1) * p_jobs);
        END IF;
    END LOOP;
END $$;

-- Adjoining closed ranges become one; returns how many are left.
CREATE OR REPLACE FUNCTION ledger_merge_closed() RETURNS bigint LANGUAGE sql AS $$
    WITH old AS (DELETE FROM closed_range RETURNING lo, hi),
    marked AS (
        SELECT lo, hi, lo > 1 + max(hi) OVER (ORDER BY lo ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                       IS NOT FALSE AS starts FROM old
    ),
    numbered AS (SELECT lo, hi, count(*) FILTER (WHERE starts) OVER (ORDER BY lo) AS island FROM marked),
    merged AS (INSERT INTO closed_range SELECT min(lo), max(hi) FROM numbered GROUP BY island RETURNING 1)
    SELECT count(*) FROM merged
$$;
