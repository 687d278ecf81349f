//! Sessions with PostgreSQL: an ordinary login over TCP.

mod credentials;
mod error;
mod guard;
mod startup;
mod tls;

use std::{ops::Deref, time::Duration};

use guard::Guard;
use socket2::{SockRef, TcpKeepalive};
use startup::Startup;
use tls::{GuardedTls, ReplicationTls};
use tokio::{net::TcpStream, sync::watch};
use tokio_postgres::Config;
use tokio_util::task::AbortOnDropHandle;

pub use credentials::{Credentials, Secret, Source};
use error::Target;
pub use error::{ConnectError, QueryError};
pub(super) use startup::Stream;

/// A peer that is gone without a word is noticed after about 25 seconds.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(10))
    .with_interval(Duration::from_secs(5))
    .with_retries(3);
const GOODBYE: Duration = Duration::from_secs(2);
const UNACKNOWLEDGED: Duration = Duration::from_secs(25);

/// Settings of a role or database that would end the session or a long call (backup mode lives as long as the session),
/// and the search path, so that no other schema's functions are called. The server looks for us as we look for it: with a
/// kernel's own patience a session whose client's node is lost would stay in backup mode for hours, and a call that waits
/// for a checkpoint would go on without anybody. A server that does not know one of them, as it is older, still says its version.
const PREPARE: &str = "SELECT current_setting('server_version_num')::int4, \
    set_config('search_path', 'pg_catalog', false), \
    (SELECT count(set_config(name, wanted, false)) FROM pg_catalog.pg_settings JOIN (VALUES \
     ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'), \
     ('tcp_user_timeout', '25s'), ('client_connection_check_interval', '5s')) AS w (name, wanted) USING (name)), \
    (SELECT count(set_config(name, '0', false)) FROM pg_catalog.pg_settings WHERE name IN \
     ('statement_timeout', 'lock_timeout', 'idle_session_timeout', \
      'idle_in_transaction_session_timeout', 'transaction_timeout'))";

/// What sessions are called in `pg_stat_activity`, but those that have a name of their own.
pub const APPLICATION: &str = "highwater";

/// Where and as whom to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// A name or an IP address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The database.
    pub database: String,
    /// User and password.
    pub credentials: Credentials,
    /// What the session is called in `pg_stat_activity`.
    pub application: &'static str,
    /// After this long without a session the try fails.
    pub timeout: Duration,
}

/// A session. It ends when this is dropped.
#[derive(Debug)]
pub struct Client {
    inner: tokio_postgres::Client,
    major: u32,
    ended: watch::Receiver<bool>,
    /// Dropped last: closing the socket is what ends the session, and the server then leaves backup mode by itself.
    connection: AbortOnDropHandle<()>,
}

impl Client {
    /// The server's major version.
    pub const fn major(&self) -> u32 {
        self.major
    }

    /// Waits until the session has ended, for whatever reason.
    pub async fn ended(&self) {
        // An error means that the task that drives the connection is gone: ended too.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Says goodbye before it closes the socket, so that the server has nothing to log.
    pub async fn close(self) {
        let Self {
            inner, connection, ..
        } = self;
        drop(inner);
        // Whatever the outcome, the session is over.
        let _ = tokio::time::timeout(GOODBYE, connection).await;
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    /// The session is lost.
    pub async fn ping(&self) -> Result<(), QueryError> {
        let answer = self.inner.simple_query("SELECT 1").await;
        answer
            .map(|_| ())
            .map_err(|error| QueryError::new("ping PostgreSQL", &error))
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

/// Opens a session: TLS if the server has it, SCRAM if it asks for a password, no timeouts.
///
/// # Errors
/// No session; [`ConnectError::reason`] says why.
pub async fn connect(options: &ConnectOptions) -> Result<Client, ConnectError> {
    let login = Login::new(options)?;
    login.in_time(open(&login)).await
}

/// Opens a session for physical replication, logged in like any other, and leaves the rest to the caller.
///
/// # Errors
/// As for [`connect`].
pub(super) async fn connect_for_replication(
    options: &ConnectOptions,
) -> Result<Stream, ConnectError> {
    let login = Login::new(options)?;
    login.in_time(open_for_replication(&login)).await
}

/// What every login has.
struct Login<'a> {
    options: &'a ConnectOptions,
    config: Config,
    target: Target<'a>,
    has_password: bool,
}

impl<'a> Login<'a> {
    fn new(options: &'a ConnectOptions) -> Result<Self, ConnectError> {
        let (user, password) = options.credentials.read()?;
        let mut config = Config::new();
        config
            .user(user.expose())
            .dbname(&options.database)
            .application_name(options.application);
        if let Some(password) = &password {
            config.password(password.expose());
        }
        Ok(Self {
            options,
            config,
            target: Target {
                address: format!("{}:{}", options.host, options.port),
                user: user.expose().to_owned(),
                database: &options.database,
            },
            has_password: password.is_some(),
        })
    }

    async fn in_time<T>(
        &self,
        session: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        let timeout = self.options.timeout;
        let outcome = tokio::time::timeout(timeout, session).await;
        outcome.unwrap_or_else(|_| {
            let seconds = timeout.as_secs_f64();
            Err(self
                .target
                .unreachable(format!("no answer within {seconds} s")))
        })
    }

    async fn socket(&self) -> Result<(Guard<TcpStream>, GuardedTls), ConnectError> {
        let unreachable = |error: std::io::Error| self.target.unreachable(error);
        let address = (self.options.host.as_str(), self.options.port);
        let socket = TcpStream::connect(address).await.map_err(unreachable)?;
        keep_alive(&socket).map_err(unreachable)?;
        let tls = GuardedTls::new(&self.options.host).map_err(unreachable)?;
        Ok((Guard::before_tls(socket), tls))
    }

    fn explain(&self, error: &tokio_postgres::Error) -> ConnectError {
        self.target.explain(error, self.has_password)
    }
}

async fn open_for_replication(login: &Login<'_>) -> Result<Stream, ConnectError> {
    let (socket, tls) = login.socket().await?;
    let (startup, stream) = Startup::new(socket);
    let connected = login.config.connect_raw(startup, ReplicationTls(tls)).await;
    let (client, connection) = connected.map_err(|error| login.explain(&error))?;
    // Logged in, and nothing was asked: the stream is as the server left it.
    drop(connection);
    drop(client);
    stream
        .await
        .map_err(|_| login.target.unreachable("the stream did not come back"))
}

async fn open(login: &Login<'_>) -> Result<Client, ConnectError> {
    let (socket, tls) = login.socket().await?;
    let connected = login.config.connect_raw(socket, tls).await;
    let (inner, connection) = connected.map_err(|error| login.explain(&error))?;
    let (end, ended) = watch::channel(false);
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to PostgreSQL ended");
        }
        let _ = end.send(true);
    }));
    let mut client = Client {
        inner,
        major: 0,
        ended,
        connection,
    };
    client.major = prepare(&client, &login.target).await?;
    Ok(client)
}

fn keep_alive(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

async fn prepare(client: &Client, target: &Target<'_>) -> Result<u32, ConnectError> {
    let row = client
        .query_typed_one(PREPARE, &[])
        .await
        .map_err(|error| target.explain(&error, true))?;
    let version: i32 = row
        .try_get(0)
        .map_err(|error| target.explain(&error, true))?;
    match u32::try_from(version / 10_000) {
        Ok(major @ 14..=18) => Ok(major),
        other => Err(ConnectError::UnsupportedVersion {
            address: target.address.clone(),
            major: other.unwrap_or_default(),
        }),
    }
}
