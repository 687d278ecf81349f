//! Statements of every kind, for the WAL that they write.

use std::time::Duration;

use highwater::postgres::session::Client;

use crate::database::{Database, programs::major};

/// Every kind of index, built on rows and then changed.
const INDEXES: &[&str] = &[
    "CREATE TABLE kinds (n int, t text, a int[], p point, r int4range)",
    "INSERT INTO kinds SELECT n, md5(n::text), ARRAY[n, n % 7], point(n % 100, n / 100), int4range(n, n + 3) \
     FROM generate_series(1, 2000) n",
    "CREATE INDEX kinds_btree ON kinds (n)",
    "CREATE INDEX CONCURRENTLY kinds_two ON kinds (t, n)",
    "CREATE INDEX kinds_hash ON kinds USING hash (t)",
    "CREATE INDEX kinds_gin ON kinds USING gin (a)",
    "CREATE INDEX kinds_gin_slow ON kinds USING gin (a) WITH (fastupdate = off)",
    "CREATE INDEX kinds_gist ON kinds USING gist (p)",
    "CREATE INDEX kinds_gist_range ON kinds USING gist (r)",
    "CREATE INDEX kinds_spgist ON kinds USING spgist (p)",
    "CREATE INDEX kinds_spgist_text ON kinds USING spgist (t)",
    "CREATE INDEX kinds_brin ON kinds USING brin (n) WITH (pages_per_range = 1)",
    "INSERT INTO kinds SELECT n, md5(n::text), ARRAY[n, n % 7], point(n % 100, n / 100), int4range(n, n + 3) \
     FROM generate_series(2001, 5000) n",
    "SELECT gin_clean_pending_list('kinds_gin')",
    "SELECT brin_summarize_new_values('kinds_brin')",
    "SELECT brin_desummarize_range('kinds_brin', 1)",
    "UPDATE kinds SET t = md5(t), p = point(n % 31, n % 37) WHERE n % 3 = 0",
    "DELETE FROM kinds WHERE n % 2 = 0",
    "VACUUM kinds",
    "DELETE FROM kinds WHERE n > 100",
    "VACUUM (FREEZE, INDEX_CLEANUP ON) kinds",
    "INSERT INTO kinds SELECT n, md5(n::text), ARRAY[n, 1], point(n, n), int4range(n, n + 1) \
     FROM generate_series(1, 1000) n",
    "REINDEX TABLE kinds",
    "CLUSTER kinds USING kinds_btree",
    "VACUUM FULL kinds",
    "TRUNCATE kinds",
    "CREATE EXTENSION bloom",
    "CREATE INDEX kinds_bloom ON kinds USING bloom (n)",
    "INSERT INTO kinds SELECT n FROM generate_series(1, 1000) n",
    "DROP TABLE kinds",
];

const ROWS: &[&str] = &[
    "CREATE TABLE small (n int PRIMARY KEY, x int DEFAULT 0, filler text DEFAULT repeat('f', 100))",
    "CREATE UNLOGGED TABLE unlogged (n int PRIMARY KEY)",
    "CREATE SEQUENCE numbers",
    "SELECT nextval('numbers') FROM generate_series(1, 100)",
    "SELECT setval('numbers', 1000)",
    "ALTER SEQUENCE numbers RESTART WITH 7",
    "COPY small (n) FROM PROGRAM 'seq 1 5000'",
    "CREATE MATERIALIZED VIEW seen AS SELECT n FROM small WHERE n < 100",
    "CREATE UNIQUE INDEX ON seen (n)",
    "REFRESH MATERIALIZED VIEW CONCURRENTLY seen",
    "CREATE TYPE mood AS ENUM ('fine')",
    "ALTER TYPE mood ADD VALUE 'well'",
    "ALTER TABLE small ADD COLUMN y bigint",
    "ALTER TABLE small ALTER COLUMN x TYPE bigint",
    // More subtransactions than fit one page of the commit log.
    "DO $$ BEGIN FOR i IN 100001..133000 LOOP \
        BEGIN INSERT INTO small (n) VALUES (i); EXCEPTION WHEN OTHERS THEN NULL; END; \
     END LOOP; END $$",
    "BEGIN",
    "INSERT INTO small (n) VALUES (200001)",
    "SAVEPOINT one",
    "INSERT INTO small (n) VALUES (200002)",
    "ROLLBACK TO one",
    "INSERT INTO small (n) VALUES (200003)",
    "RELEASE one",
    "COMMIT",
    "BEGIN",
    "DROP TABLE unlogged",
    "ROLLBACK",
    "UPDATE small SET x = n WHERE n < 3000",
    "UPDATE small SET x = -n WHERE n < 3000",
    "DELETE FROM small WHERE n > 100000",
    "VACUUM (FREEZE) small",
    "SELECT lo_from_bytea(4711, decode(repeat('ab', 10000), 'hex'))",
    "SELECT lo_unlink(4711)",
    "NOTIFY everyone",
    "ANALYZE",
];

const PREPARED: &[&str] = &[
    "CREATE TABLE dropped (n int)",
    "BEGIN",
    "INSERT INTO small (n) VALUES (300001)",
    "SAVEPOINT one",
    "INSERT INTO small (n) VALUES (300002)",
    "DROP TABLE dropped",
    "PREPARE TRANSACTION 'committed'",
    "BEGIN",
    "CREATE TABLE never (n int)",
    "PREPARE TRANSACTION 'rolled back'",
    "CHECKPOINT",
    "COMMIT PREPARED 'committed'",
    "ROLLBACK PREPARED 'rolled back'",
    "SELECT pg_replication_origin_create('elsewhere')",
    "SELECT pg_replication_origin_session_setup('elsewhere')",
    "BEGIN",
    "SELECT pg_replication_origin_xact_setup('0/1234', now() - interval '1 day')",
    "INSERT INTO small (n) VALUES (300003)",
    "COMMIT",
    "BEGIN",
    "SELECT pg_replication_origin_xact_setup('0/1235', now())",
    "INSERT INTO small (n) VALUES (300004)",
    "PREPARE TRANSACTION 'of elsewhere'",
    "COMMIT PREPARED 'of elsewhere'",
    "SELECT pg_replication_origin_session_reset()",
    "SELECT pg_replication_origin_advance('elsewhere', '0/5678')",
    "SELECT pg_replication_origin_drop('elsewhere')",
];

const CLUSTER: &[&str] = &[
    "SET allow_in_place_tablespaces = on",
    "CREATE TABLESPACE space LOCATION ''",
    "ALTER TABLE small SET TABLESPACE space",
    "ALTER TABLE small SET TABLESPACE pg_default",
    "CREATE DATABASE usual",
    "ALTER DATABASE usual SET TABLESPACE space",
    "DROP DATABASE usual",
    "DROP TABLESPACE space",
    "VACUUM FULL pg_class",
    "VACUUM FULL pg_database",
    "CREATE ROLE reader",
    "GRANT SELECT ON small TO reader",
    "SELECT pg_create_restore_point('a point')",
    "SELECT pg_switch_wal()",
    "INSERT INTO small (n) VALUES (400001)",
];

const LOGICAL: &[&str] = &[
    "SELECT pg_create_logical_replication_slot('reader', 'pgoutput')",
    "CREATE PUBLICATION everything FOR ALL TABLES",
    "CREATE TABLE told (n int PRIMARY KEY, t text)",
    "ALTER TABLE told REPLICA IDENTITY FULL",
    "INSERT INTO told SELECT n, md5(n::text) FROM generate_series(1, 1000) n",
    "UPDATE told SET t = '' WHERE n % 2 = 0",
    "DELETE FROM told WHERE n % 5 = 0",
    "SELECT pg_logical_emit_message(true, 'of a transaction', 'x')",
    "SELECT pg_logical_emit_message(false, 'of none', repeat('x', 40000))",
    "VACUUM FULL pg_proc",
    "TRUNCATE told",
    "DROP PUBLICATION everything",
    "SELECT pg_drop_replication_slot('reader')",
];

/// Nothing of the table is logged, which is as new as its rows.
const MINIMAL: &[&str] = &[
    "BEGIN",
    "CREATE TABLE minimal (n int)",
    "COPY minimal FROM PROGRAM 'seq 1 5000'",
    "COMMIT",
    "CREATE INDEX ON minimal (n)",
];

async fn each(client: &Client, statements: &[&str]) {
    for statement in statements {
        let done = client.batch_execute(statement).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

/// As applications have it: the product's own sessions look into no schema but PostgreSQL's.
async fn session(database: &Database) -> Client {
    let client = database.client().await;
    each(&client, &["SET search_path = public"]).await;
    client
}

/// All of them, under all levels of WAL. At the end the server runs with `wal_level = logical`.
pub async fn run_all(database: &Database) {
    let client = session(database).await;
    for statements in [INDEXES, ROWS, PREPARED, CLUSTER] {
        each(&client, statements).await;
    }
    versions(&client).await;
    compressions(&client).await;
    full_page_writes(&client).await;
    shared_locks(&client, &session(database).await).await;
    long_records(&client, database).await;
    drop(client);
    restart(database, "wal_level = minimal\nmax_wal_senders = 0").await;
    each(&session(database).await, MINIMAL).await;
    restart(database, "wal_level = logical\nmax_wal_senders = 10").await;
    each(&session(database).await, LOGICAL).await;
}

async fn restart(database: &Database, settings: &str) {
    database.append("postgresql.conf", settings);
    database.stop("fast");
    database.boot();
}

/// What has another name in some versions, or is not in all.
async fn versions(client: &Client) {
    let backup = match major() {
        ..15 => ["pg_start_backup('b', true, false)", "pg_stop_backup(false)"],
        _ => ["pg_backup_start('b', true)", "pg_backup_stop(false)"],
    };
    each(
        client,
        &backup
            .map(|call| format!("SELECT {call}"))
            .each_ref()
            .map(String::as_str),
    )
    .await;
    if major() >= 15 {
        for strategy in ["wal_log", "file_copy"] {
            let create = format!("CREATE DATABASE {strategy} STRATEGY {strategy}");
            each(client, &[&create]).await;
        }
    }
}

/// Full-page images in each form that this server can write.
async fn compressions(client: &Client) {
    let query = "SELECT unnest(coalesce(enumvals, '{on,off}')) FROM pg_settings WHERE name = 'wal_compression'";
    for row in client.query(query, &[]).await.unwrap() {
        let set = format!("SET wal_compression = {}", row.get::<_, &str>(0));
        each(
            client,
            &[
                &set,
                "CHECKPOINT",
                "UPDATE small SET x = x + 1 WHERE n < 500",
            ],
        )
        .await;
    }
}

/// Off and on again. The checkpointer writes that down when it next looks at the settings.
async fn full_page_writes(client: &Client) {
    for value in ["off", "on"] {
        let alter = format!("ALTER SYSTEM SET full_page_writes = {value}");
        each(client, &[&alter, "SELECT pg_reload_conf()"]).await;
        let is_done = format!("SELECT full_page_writes = '{value}' FROM pg_control_checkpoint()");
        for tries in 0.. {
            each(client, &["CHECKPOINT"]).await;
            if client.query_one(&is_done, &[]).await.unwrap().get(0) {
                break;
            }
            assert!(tries < 1000, "full_page_writes stays");
        }
    }
}

/// Rows that two transactions hold at once.
async fn shared_locks(one: &Client, two: &Client) {
    each(one, &["BEGIN", "SELECT FROM small WHERE n < 200 FOR SHARE"]).await;
    each(
        two,
        &[
            "BEGIN",
            "SELECT FROM small WHERE n < 200 FOR SHARE",
            "COMMIT",
        ],
    )
    .await;
    each(
        one,
        &[
            "COMMIT",
            "BEGIN",
            "SELECT FROM small WHERE n < 200 FOR KEY SHARE",
        ],
    )
    .await;
    each(two, &["BEGIN", "UPDATE small SET x = 0 WHERE n < 100"]).await;
    each(
        one,
        &["SELECT FROM small WHERE n < 100 FOR KEY SHARE", "COMMIT"],
    )
    .await;
    each(two, &["COMMIT", "VACUUM (FREEZE) small"]).await;
}

/// Records across pages, and across one end of a segment or several.
async fn long_records(client: &Client, database: &Database) {
    let segment = database.segment_size.get();
    let mut lengths = vec![8000, 20_000, 300_000];
    match segment >> 20 {
        1 => lengths.push(segment * 7 / 2),
        ..=64 => lengths.push(segment * 6 / 5),
        // A record is shorter than such a segment.
        _ => {}
    }
    for length in lengths {
        let emit = format!("SELECT pg_logical_emit_message(true, 'long', repeat('x', {length}))");
        each(client, &[&emit]).await;
    }
}

/// Writes until the server is gone, which is killed once it has committed some of it.
pub async fn killed_while_writing(database: &Database) {
    let client = session(database).await;
    let (sender, mut committed) = tokio::sync::watch::channel(0);
    let writer = tokio::spawn(async move {
        let insert = "INSERT INTO small (n) SELECT 500000 + n FROM generate_series(1, 300) n \
            ON CONFLICT (n) DO UPDATE SET x = small.x + 1";
        while client.batch_execute(insert).await.is_ok() {
            sender.send_modify(|count| *count += 1);
        }
    });
    let enough = committed.wait_for(|count| *count >= 20);
    let enough = tokio::time::timeout(Duration::from_secs(30), enough).await;
    enough.unwrap().unwrap();
    database.stop("immediate");
    writer.await.unwrap();
}
