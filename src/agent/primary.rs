//! Which member takes writes, and the session with it.

use std::{sync::Arc, time::Duration};

use super::config::Args;
use crate::{
    api::{Member, conditions::INSUFFICIENT_PRIVILEGES},
    postgres::{
        TimelineId,
        privileges::{self, MissingGrant},
        server::{self, ServerFacts},
        session::{
            APPLICATION, Client, ConnectError, ConnectOptions, Credentials, QueryError, Secret,
            Source, connect,
        },
    },
};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long questions to a member may take.
const ASK: Duration = Duration::from_secs(10);

/// How members are reached.
#[derive(Clone, Debug)]
pub struct Login {
    port: u16,
    database: String,
    credentials: Credentials,
}

impl Login {
    /// From the arguments. Files are read at each connect, so that a changed Secret is heeded.
    pub fn new(args: &Args) -> Self {
        let file = |path: &std::path::PathBuf| Source::File(path.clone());
        let user = args.user.as_deref().unwrap_or("postgres");
        let user = match &args.user_file {
            Some(path) => Source::FileOr(path.clone(), Secret::new(user)),
            None => Source::value(user),
        };
        let password = match &args.password_file {
            Some(path) => Some(file(path)),
            None => args.password.clone().map(Source::Value),
        };
        Self {
            port: args.port,
            database: args.database.clone(),
            credentials: Credentials { user, password },
        }
    }

    /// The database that sessions are in.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// A session of its own with the server at `address`.
    ///
    /// # Errors
    /// As any connection.
    pub async fn connect(&self, address: &str) -> Result<Client, ConnectError> {
        connect(&self.options(address)).await
    }

    /// The same under a name of its own in `pg_stat_activity`.
    ///
    /// # Errors
    /// As any connection.
    pub async fn connect_as(
        &self,
        application: &'static str,
        address: &str,
    ) -> Result<Client, ConnectError> {
        let mut options = self.options(address);
        options.application = application;
        connect(&options).await
    }

    /// For a session with the server at `address`.
    pub fn options(&self, address: &str) -> ConnectOptions {
        ConnectOptions {
            host: address.to_owned(),
            port: self.port,
            database: self.database.clone(),
            credentials: self.credentials.clone(),
            application: APPLICATION,
            timeout: CONNECT,
        }
    }
}

/// A member that answers.
pub struct Answering {
    /// Which.
    pub member: Member,
    /// The session.
    pub client: Arc<Client>,
    /// What it says of itself.
    pub facts: ServerFacts,
    /// The role of the session.
    pub user: String,
}

/// Why there is no primary to work with.
#[derive(Debug, thiserror::Error)]
pub enum NoPrimary {
    /// No pod runs.
    #[error("no pod of the StatefulSet runs")]
    NoMembers,
    /// No session with any member; the error that says most.
    #[error("{pod}: {cause}")]
    Connect {
        /// The member.
        pod: String,
        /// Why.
        #[source]
        cause: ConnectError,
    },
    /// A session, but no answer.
    #[error("{pod}: {cause}")]
    Query {
        /// The member.
        pod: String,
        /// Why.
        #[source]
        cause: QueryError,
    },
    /// A session, but the role lacks rights.
    #[error(
        "{pod}: the role may not do what Highwater needs; run in database {database} as superuser: {grants}"
    )]
    Privileges {
        /// The member.
        pod: String,
        /// Rights on functions are per database.
        database: String,
        /// The statements.
        grants: String,
    },
    /// A session, but no answer in time.
    #[error("{pod}: no answer within {} s", ASK.as_secs())]
    Silent {
        /// The member.
        pod: String,
    },
    /// All that answer are standbys.
    #[error("all members that answer are in recovery: {pods}")]
    OnlyStandbys {
        /// Their names.
        pods: String,
    },
    /// Two members take writes on one timeline.
    #[error(
        "more than one member takes writes on timeline {timeline}: {pods}; stop all but the right one"
    )]
    SplitBrain {
        /// Their timeline.
        timeline: TimelineId,
        /// Their names.
        pods: String,
    },
}

impl NoPrimary {
    /// For conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoMembers | Self::Silent { .. } => "DatabaseUnreachable",
            Self::Connect { cause, .. } => cause.reason(),
            Self::Query { cause, .. } => cause.reason(),
            Self::Privileges { .. } => INSUFFICIENT_PRIVILEGES,
            Self::OnlyStandbys { .. } => "NoPrimary",
            Self::SplitBrain { .. } => "SplitBrain",
        }
    }

    /// How much this says about what an admin should do: a wrong password more than a pod that does not answer.
    fn weight(&self) -> u8 {
        match self {
            Self::NoMembers => 0,
            Self::Silent { .. } => 1,
            Self::Connect { cause, .. } if cause.reason() == "DatabaseUnreachable" => 1,
            Self::Connect { .. } | Self::Query { .. } | Self::Privileges { .. } => 2,
            Self::OnlyStandbys { .. } | Self::SplitBrain { .. } => 3,
        }
    }
}

/// What decides who is primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// The pod.
    pub pod: String,
    /// It is a standby.
    pub in_recovery: bool,
    /// The timeline it writes or replays.
    pub timeline: TimelineId,
}

/// The index of the primary: not in recovery, on the highest timeline (an old primary that came back is on a lower one).
///
/// # Errors
/// All are standbys, or two are on the highest timeline.
pub fn choose(roles: &[Role]) -> Result<usize, NoPrimary> {
    let names = |roles: &mut dyn Iterator<Item = &Role>| {
        roles
            .map(|role| role.pod.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let writing = || {
        roles
            .iter()
            .enumerate()
            .filter(|(_, role)| !role.in_recovery)
    };
    let Some(timeline) = writing().map(|(_, role)| role.timeline).max() else {
        let pods = names(&mut roles.iter());
        return Err(NoPrimary::OnlyStandbys { pods });
    };
    let mut highest = writing().filter(|(_, role)| role.timeline == timeline);
    match (highest.next(), highest.next()) {
        (Some((index, _)), None) => Ok(index),
        _ => {
            let mut both = writing()
                .map(|(_, role)| role)
                .filter(|role| role.timeline == timeline);
            Err(NoPrimary::SplitBrain {
                timeline,
                pods: names(&mut both),
            })
        }
    }
}

/// A session with the primary among `members`.
///
/// # Errors
/// There is none that can be worked with.
pub async fn find(login: &Login, members: &[Member]) -> Result<Answering, NoPrimary> {
    let asked = futures::future::join_all(members.iter().map(|member| ask(login, member))).await;
    let (mut answering, mut failed) = (Vec::new(), None::<NoPrimary>);
    for answer in asked {
        match answer {
            Ok(member) => answering.push(member),
            Err(error) if failed.as_ref().is_none_or(|f| f.weight() < error.weight()) => {
                failed = Some(error);
            }
            Err(_) => {}
        }
    }
    if answering.is_empty() {
        return Err(failed.unwrap_or(NoPrimary::NoMembers));
    }
    let roles: Vec<_> = answering.iter().map(role).collect();
    let index = choose(&roles)?;
    Ok(answering.swap_remove(index))
}

fn role(answering: &Answering) -> Role {
    Role {
        pod: answering.member.pod.clone(),
        in_recovery: answering.facts.in_recovery,
        timeline: answering.facts.timeline,
    }
}

async fn ask(login: &Login, member: &Member) -> Result<Answering, NoPrimary> {
    let pod = || member.pod.clone();
    let client = login
        .connect(&member.address)
        .await
        .map_err(|cause| NoPrimary::Connect { pod: pod(), cause })?;
    let query = |cause| NoPrimary::Query { pod: pod(), cause };
    let questions = async {
        // First: without them the rest says less of what to do.
        let missing = privileges::missing(&client).await.map_err(query)?;
        allowed(pod(), &missing)?;
        let facts = server::facts(&client).await.map_err(query)?;
        Ok((facts, server::user(&client).await.map_err(query)?))
    };
    let (facts, user) = tokio::time::timeout(ASK, questions)
        .await
        .map_err(|_| NoPrimary::Silent { pod: pod() })??;
    Ok(Answering {
        member: member.clone(),
        client: Arc::new(client),
        facts,
        user,
    })
}

/// The role has every right that is needed.
fn allowed(pod: String, missing: &[MissingGrant]) -> Result<(), NoPrimary> {
    let Some(first) = missing.first() else {
        return Ok(());
    };
    let statements: Vec<_> = missing.iter().map(|grant| format!("{grant};")).collect();
    Err(NoPrimary::Privileges {
        pod,
        database: first.database.clone(),
        grants: statements.join(" "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(pod: &str, in_recovery: bool, timeline: u32) -> Role {
        Role {
            pod: pod.into(),
            in_recovery,
            timeline: TimelineId::new(timeline).unwrap(),
        }
    }

    #[test]
    fn the_primary_takes_writes_on_the_highest_timeline() {
        for (name, roles, expected) in [
            ("one", vec![role("a", false, 1)], Ok(0)),
            (
                "with a standby",
                vec![role("a", true, 1), role("b", false, 1)],
                Ok(1),
            ),
            (
                "an old primary is back",
                vec![role("a", false, 1), role("b", false, 2)],
                Ok(1),
            ),
            (
                "a standby ahead does not count",
                vec![role("a", true, 3), role("b", false, 2)],
                Ok(1),
            ),
            (
                "standbys",
                vec![role("a", true, 1), role("b", true, 1)],
                Err("NoPrimary"),
            ),
            (
                "two",
                vec![
                    role("a", false, 2),
                    role("b", false, 2),
                    role("c", false, 1),
                ],
                Err("SplitBrain"),
            ),
        ] {
            assert_eq!(
                choose(&roles).map_err(|error| error.reason()),
                expected,
                "{name}"
            );
        }
        let both = choose(&[
            role("a", false, 2),
            role("b", false, 2),
            role("c", false, 1),
        ]);
        assert!(both.unwrap_err().to_string().contains("timeline 2: a, b;"));
    }
}
