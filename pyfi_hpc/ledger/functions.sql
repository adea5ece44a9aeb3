-- Functions: they hold no data, so every upgrade replaces them all from this file (and the views from views.sql).

-- The fence and the commit's own row, one round trip. Volatile: each statement inside sees what is committed
-- when it runs, so the compare comes after the lock. A takeover holds the lock exclusively while it raises the epoch.
CREATE OR REPLACE FUNCTION ledger_begin(
    p_class int, p_shard int, p_epoch bigint, p_seq bigint,
    p_jobs int, p_batches int, p_outcomes int, p_attempts int, p_lo bigint[], p_hi bigint[]
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_epoch bigint;
BEGIN
    -- the fence of a shard is its odd lock, see fence.py
    PERFORM pg_advisory_xact_lock_shared(p_class, 2 * p_shard + 1);
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
    v_name := 'block_p' || p_number;
    IF to_regclass(v_name) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE block INCLUDING ALL EXCLUDING INDEXES)', v_name);
        EXECUTE format('ALTER TABLE block ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                       v_name, p_number << 40, (p_number + 1) << 40);
    END IF;
END $$;

-- The payload of a row: its own bytes, or those of its blocks. Each block is looked for by its number, whatever the
-- planner thinks of a table that grew since the plan was made.
CREATE OR REPLACE FUNCTION ledger_payload(p_payload bytea, p_blocks bigint[]) RETURNS bytea
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    IF p_blocks IS NULL THEN
        RETURN p_payload;
    END IF;
    RETURN ledger_blocks(p_blocks);
END $$;
CREATE OR REPLACE FUNCTION ledger_blocks(p_blocks bigint[]) RETURNS bytea
LANGUAGE plpgsql STABLE PARALLEL SAFE SET enable_seqscan = off AS $$
DECLARE
    v_found bigint;
    v_data bytea;
BEGIN
    SELECT count(b.data), string_agg(b.data, ''::bytea ORDER BY w.place) INTO v_found, v_data
    FROM unnest(p_blocks) WITH ORDINALITY AS w (number, place)
    CROSS JOIN LATERAL (
        SELECT string_agg(data, ''::bytea ORDER BY part) AS data FROM block WHERE number = w.number OFFSET 0
    ) AS b;
    IF v_found < cardinality(p_blocks) THEN
        RAISE EXCEPTION 'the ledger is damaged: % of the blocks % are missing', cardinality(p_blocks) - v_found, p_blocks
            USING ERRCODE = 'data_corrupted', HINT = 'restore it from a copy';
    END IF;
    RETURN v_data;
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

-- The words of model/states.py; a test compares them.
CREATE OR REPLACE FUNCTION ledger_state(p_state int) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (ARRAY['PENDING', 'PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'TIMEOUT', 'CANCELLED', 'SKIPPED'])[p_state + 1]
$$;
CREATE OR REPLACE FUNCTION ledger_state_code(p_state int) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (ARRAY['PD', 'PD', 'R', 'CD', 'F', 'TO', 'CA', 'SK'])[p_state + 1]
$$;
CREATE OR REPLACE FUNCTION ledger_cause(p_cause int) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (ARRAY['NONE', 'ERROR', 'TIME_LIMIT', 'CRASH', 'OUT_OF_MEMORY', 'RANK_LOST', 'NODE_FAIL', 'WALLTIME',
                  'PREEMPTED', 'ENVIRONMENT', 'RELEASED', 'CANCELLED', 'STALE',
                  'CONTINUED'])[p_cause + 1]
$$;

-- The i-th little-endian number of a packed column, from 0; NULL where the column has none. CASE comes first
-- of all: it alone keeps the bytes from being looked for where there are none.
CREATE OR REPLACE FUNCTION float8_at(p_packed bytea, p_index int) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN coalesce(octet_length(p_packed), 0) >= 8 * (p_index + 1) THEN (
        SELECT CASE WHEN exponent = 0 THEN 0 ELSE
            (CASE WHEN high > 127 THEN -1 ELSE 1 END) * (1 + mantissa / 4503599627370496.0::float8)
            * power(2::float8, exponent - 1023) END
        FROM (
            SELECT get_byte(b, 7) AS high, ((get_byte(b, 7) & 127) << 4) | (get_byte(b, 6) >> 4) AS exponent,
                   (((get_byte(b, 6) & 15)::bigint << 48) | (get_byte(b, 5)::bigint << 40)
                    | (get_byte(b, 4)::bigint << 32) | (get_byte(b, 3)::bigint << 24)
                    | (get_byte(b, 2)::bigint << 16) | (get_byte(b, 1)::bigint << 8) | get_byte(b, 0))::float8
                   AS mantissa
            FROM (SELECT substring(p_packed FROM 8 * p_index + 1 FOR 8) AS b) AS cut
        ) AS parts
    ) END
$$;
CREATE OR REPLACE FUNCTION float4_at(p_packed bytea, p_index int) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN coalesce(octet_length(p_packed), 0) >= 4 * (p_index + 1) THEN (
        SELECT CASE WHEN exponent = 0 THEN 0 ELSE
            (CASE WHEN high > 127 THEN -1 ELSE 1 END) * (1 + mantissa / 8388608.0::float8)
            * power(2::float8, exponent - 127) END
        FROM (
            SELECT get_byte(b, 3) AS high, ((get_byte(b, 3) & 127) << 1) | (get_byte(b, 2) >> 7) AS exponent,
                   (((get_byte(b, 2) & 127) << 16) | (get_byte(b, 1) << 8) | get_byte(b, 0))::float8 AS mantissa
            FROM (SELECT substring(p_packed FROM 4 * p_index + 1 FOR 4) AS b) AS cut
        ) AS parts
    ) END
$$;
