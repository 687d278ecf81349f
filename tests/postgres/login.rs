//! Logging in, and being refused.

use std::{fs, time::Duration};

use highwater::postgres::session::{ConnectError, Source, connect};

use crate::database::{Database, PASSWORD};

async fn refusal(options: &highwater::postgres::session::ConnectOptions) -> ConnectError {
    let error = connect(options).await.expect_err("a refusal");
    let text = format!("{error} {error:?}");
    assert!(
        !text.contains("hunter2") && !text.contains(PASSWORD),
        "{text}"
    );
    error
}

#[tokio::test]
async fn every_refusal_has_its_reason() {
    let database = Database::start(16, "");
    database
        .sql(
            "SET password_encryption = 'md5'; CREATE ROLE md5er LOGIN PASSWORD 'hunter2'; \
             CREATE ROLE cleartext LOGIN PASSWORD 'hunter2'; CREATE ROLE barred LOGIN PASSWORD 'hunter2'; \
             SET password_encryption = 'scram-sha-256'; CREATE ROLE nologin PASSWORD 'hunter2'; \
             CREATE ROLE limited LOGIN PASSWORD 'hunter2' CONNECTION LIMIT 0; \
             CREATE DATABASE closed; REVOKE CONNECT ON DATABASE closed FROM PUBLIC; \
             CREATE ROLE outsider LOGIN PASSWORD 'hunter2'",
        )
        .await;
    let login = |user, password| database.login(user, password);
    for (options, reason) in [
        (login("postgres", Some("hunter2")), "PasswordRejected"),
        (login("nobody", Some("hunter2")), "PasswordRejected"),
        (login("postgres", None), "PasswordMissing"),
        (login("md5er", Some("hunter2")), "InsecureAuthentication"),
        (
            login("cleartext", Some("hunter2")),
            "InsecureAuthentication",
        ),
        (login("barred", Some("hunter2")), "AccessRefused"),
        (login("nologin", Some("hunter2")), "AccessRefused"),
        (login("limited", Some("hunter2")), "TooManyConnections"),
    ] {
        let error = refusal(&options).await;
        assert_eq!(error.reason(), reason, "{options:?}: {error}");
    }
    for (user, password, name, reason) in [
        ("postgres", PASSWORD, "absent", "NoSuchDatabase"),
        ("outsider", "hunter2", "closed", "AccessRefused"),
    ] {
        let mut options = login(user, Some(password));
        options.database = name.into();
        assert_eq!(refusal(&options).await.reason(), reason);
    }
    tls_is_used_where_it_is_offered(&database).await;
}

async fn tls_is_used_where_it_is_offered(database: &Database) {
    const SSL: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let client = database.client().await;
    assert!(!client.query_one(SSL, &[]).await.unwrap().get::<_, bool>(0));
    database.stop("fast");
    client.ended().await;
    database.serve_tls();
    database.boot();
    let client = database.client().await;
    assert!(client.query_one(SSL, &[]).await.unwrap().get::<_, bool>(0));
    client.close().await;
    // TLS without a verified certificate does not make it safe to tell the password.
    let error = refusal(&database.login("cleartext", Some("hunter2"))).await;
    assert_eq!(error.reason(), "InsecureAuthentication");
}

#[tokio::test]
async fn nobody_there_or_nobody_answers() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let database = Database::start(16, "");
    let mut options = database.login("postgres", Some(PASSWORD));
    options.timeout = Duration::from_millis(300);
    options.port = listener.local_addr().unwrap().port();
    let silent = refusal(&options).await;
    assert_eq!(silent.reason(), "DatabaseUnreachable");
    assert!(
        silent.to_string().contains("no answer within 0.3 s"),
        "{silent}"
    );
    drop(listener);
    let closed = refusal(&options).await;
    assert_eq!(closed.reason(), "DatabaseUnreachable");
    a_rotated_password_is_read_at_the_next_connect(&database).await;
}

async fn a_rotated_password_is_read_at_the_next_connect(database: &Database) {
    let file = database.directory().join("rotated");
    let mut options = database.login("postgres", None);
    options.credentials.password = Some(Source::File(file.clone()));
    assert_eq!(refusal(&options).await.reason(), "CredentialsMissing");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let old = connect(&options).await.unwrap();
    database.sql("ALTER ROLE postgres PASSWORD 'hunter2'").await;
    assert_eq!(refusal(&options).await.reason(), "PasswordRejected");
    fs::write(&file, "hunter2").unwrap();
    connect(&options).await.unwrap();
    old.ping().await.unwrap();
}
