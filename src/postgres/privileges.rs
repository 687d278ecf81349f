//! What the role lacks.

use super::session::{Client, QueryError};

/// Something that the role may not do, and the statement that allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingGrant {
    /// What it is needed for.
    pub purpose: &'static str,
    /// The statement to run, by a superuser, in `database`.
    pub statement: String,
    /// Rights on functions are per database: the one that the session is in.
    pub database: String,
}

impl std::fmt::Display for MissingGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.statement)
    }
}

/// One thing that is needed: a query which says whether the role has it, and the statement that gives it, with `{role}`.
struct Need {
    purpose: &'static str,
    has: String,
    statement: String,
}

impl Need {
    fn execute(purpose: &'static str, function: &str) -> Self {
        Self {
            purpose,
            has: format!("has_function_privilege('{function}', 'EXECUTE')"),
            statement: format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {{role}}"),
        }
    }
}

fn needs(major: u32) -> Vec<Need> {
    let (start, stop) = match major {
        ..15 => (
            "pg_start_backup(text, boolean, boolean)",
            "pg_stop_backup(boolean, boolean)",
        ),
        _ => ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"),
    };
    vec![
        Need {
            purpose: "to hold WAL with a replication slot",
            has: "(SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user)"
                .into(),
            statement: "ALTER ROLE {role} REPLICATION".into(),
        },
        Need {
            purpose: "to read the settings that a restore must match, and who streams",
            has: "pg_has_role('pg_read_all_settings', 'USAGE') AND pg_has_role('pg_read_all_stats', 'USAGE')"
                .into(),
            statement: "GRANT pg_monitor TO {role}".into(),
        },
        Need::execute(
            "to read WAL",
            "pg_read_binary_file(text, bigint, bigint, boolean)",
        ),
        Need::execute("to begin backup mode", start),
        Need::execute("to end backup mode", stop),
        Need::execute("to tell clusters apart", "pg_control_system()"),
        Need::execute("to know the timeline", "pg_control_checkpoint()"),
    ]
}

/// What the session's role lacks; nothing for a superuser.
///
/// # Errors
/// The session is lost.
pub async fn missing(client: &Client) -> Result<Vec<MissingGrant>, QueryError> {
    let failed = |error: tokio_postgres::Error| QueryError::new("check the role's rights", &error);
    let needs = needs(client.major());
    let checks: Vec<_> = needs.iter().map(|need| need.has.as_str()).collect();
    let query = format!(
        "SELECT quote_ident(current_user), current_database()::text, ARRAY[{}]",
        checks.join(", ")
    );
    let row = client.query_typed_one(&query, &[]).await.map_err(failed)?;
    let role: String = row.try_get(0).map_err(failed)?;
    let database: String = row.try_get(1).map_err(failed)?;
    let has: Vec<bool> = row.try_get(2).map_err(failed)?;
    let missing = needs.into_iter().zip(has).filter(|(_, has)| !has);
    Ok(missing
        .map(|(need, _)| MissingGrant {
            purpose: need.purpose,
            statement: need.statement.replace("{role}", &role),
            database: database.clone(),
        })
        .collect())
}
