//! The role that a drill's statement and program ask by: it reads the database, and nothing else.
//!
//! Whoever writes a PgRestore chooses them, and is not to get at what recovery reads the archive with: so a superuser, who may
//! read files and run programs, does not ask. `pg_read_all_data` is not granted, as it reads the system catalogs too: the
//! hashes of passwords, with which some log in at the source, and the passwords of subscriptions and foreign servers. The
//! role goes with the copy.

use std::path::Path;

use postgres_protocol::password::scram_sha_256;
use tokio_postgres::{Client, error::SqlState};

use super::promoted::{self, PromotedError};

/// Its name.
pub const READER: &str = "highwater_drill";

/// Each schema that is not the system's. No event trigger of the source has a word in it.
const READS: &str = "SET session_replication_role = replica;
    DO $$ DECLARE found name; BEGIN
      FOR found IN SELECT nspname FROM pg_catalog.pg_namespace
          WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA %I TO highwater_drill', found);
        EXECUTE pg_catalog.format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO highwater_drill', found);
        EXECUTE pg_catalog.format('GRANT SELECT ON ALL SEQUENCES IN SCHEMA %I TO highwater_drill', found);
      END LOOP;
    END $$";

/// The restored database while it answers on a private socket.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The directory of the socket.
    pub socket: &'a Path,
    /// A superuser.
    pub superuser: &'a str,
    /// The database that is read.
    pub database: &'a str,
}

impl Reader<'_> {
    /// Makes the role. One that is there already gets what it lacks.
    ///
    /// # Errors
    /// A statement fails.
    pub async fn make(&self) -> Result<(), PromotedError> {
        let superuser = self.superuser().await?;
        let row = superuser
            .query_one("SELECT pg_catalog.quote_ident($1)", &[&self.database])
            .await
            .map_err(promoted::statement("quote the database's name"))?;
        let database: &str = row.get(0);
        let made = superuser
            .batch_execute(&format!("CREATE ROLE {READER} LOGIN BYPASSRLS"))
            .await;
        match made {
            Err(error) if error.code() != Some(&SqlState::DUPLICATE_OBJECT) => {
                return Err(promoted::statement("create the drill's role")(error));
            }
            Err(_) | Ok(()) => {}
        }
        superuser
            .batch_execute(&format!(
                "GRANT pg_monitor TO {READER};
                 GRANT CONNECT ON DATABASE {database} TO {READER};
                 ALTER ROLE {READER} LOGIN BYPASSRLS NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION;
                 {READS}"
            ))
            .await
            .map_err(promoted::statement("grant the drill's role what it reads"))
    }

    /// Lets it log in over the network by this password. PostgreSQL is told what checks it, and never the password: a
    /// statement that fails is logged.
    ///
    /// # Errors
    /// The statement fails.
    pub async fn admit(&self, password: &str) -> Result<(), PromotedError> {
        let checks = scram_sha_256(password.as_bytes());
        self.superuser()
            .await?
            .batch_execute(&format!(
                "ALTER ROLE {READER} PASSWORD '{checks}' VALID UNTIL 'infinity' CONNECTION LIMIT -1"
            ))
            .await
            .map_err(promoted::statement("give the drill's role a password"))
    }

    /// Connects as it.
    ///
    /// # Errors
    /// No connection.
    pub async fn connect(&self) -> Result<Client, PromotedError> {
        promoted::connect(self.socket, READER, self.database).await
    }

    async fn superuser(&self) -> Result<Client, PromotedError> {
        promoted::connect(self.socket, self.superuser, self.database).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grants_are_to_the_role() {
        assert_eq!(READS.matches(READER).count(), 3);
        assert!(!READS.contains("pg_read_all_data"));
    }
}
