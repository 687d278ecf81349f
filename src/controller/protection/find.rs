//! Finding out from a pod template how PostgreSQL is reached and with which credentials. Pure.
//!
//! What is said explicitly (spec, then annotation) wins. Passwords are only ever referred to, or copied where the
//! template itself holds them in clear.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, SecretKeySelector, Volume};

use super::Rejection;
use crate::api::{Connection, annotations};

/// How PostgreSQL is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The container that runs PostgreSQL.
    pub container: String,
    /// Its port.
    pub port: u16,
    /// The database to connect to.
    pub database: String,
    /// The user.
    pub user: Value,
    /// The password.
    pub password: Value,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The template has it in clear.
    Literal(String),
    /// A key of a Secret.
    Secret {
        /// The Secret.
        name: String,
        /// The key in it.
        key: String,
        /// Whether the key may be missing.
        optional: bool,
    },
    /// A key of a ConfigMap.
    ConfigMap {
        /// The ConfigMap.
        name: String,
        /// The key in it.
        key: String,
    },
}

/// Environment that only a container with PostgreSQL has.
const TELLTALES: [&str; 8] = [
    "POSTGRES_PASSWORD",
    "POSTGRES_PASSWORD_FILE",
    "POSTGRES_USER",
    "POSTGRES_USER_FILE",
    "PGDATA",
    "POSTGRESQL_PASSWORD",
    "POSTGRESQL_PASSWORD_FILE",
    "POSTGRES_POSTGRES_PASSWORD",
];

/// Pairs of variables for password and user, in the order in which they count. Images that keep a second password for
/// the superuser name it apart; its user is always `postgres`.
const PAIRS: [(&str, Option<&str>); 4] = [
    ("POSTGRES_POSTGRES_PASSWORD", None),
    ("POSTGRESQL_POSTGRES_PASSWORD", None),
    ("POSTGRES_PASSWORD", Some("POSTGRES_USER")),
    ("POSTGRESQL_PASSWORD", Some("POSTGRESQL_USERNAME")),
];

/// The superuser's name where nothing else is said.
const DEFAULT_USER: &str = "postgres";
const DEFAULT_PORT: u16 = 5432;

/// Finds it out, or says what to add.
pub fn find(
    pod: &PodSpec,
    marks: &BTreeMap<String, String>,
    connection: Option<&Connection>,
) -> Result<Found, Rejection> {
    let container = container(pod, marks, connection)?;
    let (user, password) = credentials(pod, container, marks, connection)?;
    Ok(Found {
        container: container.name.clone(),
        port: port(container, marks, connection)?,
        database: connection
            .and_then(|connection| connection.database.clone())
            .unwrap_or_else(|| "postgres".to_owned()),
        user,
        password,
    })
}

/// The container that runs PostgreSQL.
fn container<'a>(
    pod: &'a PodSpec,
    marks: &BTreeMap<String, String>,
    connection: Option<&Connection>,
) -> Result<&'a Container, Rejection> {
    let named = connection
        .and_then(|connection| connection.container.as_ref())
        .or_else(|| marks.get(annotations::CONTAINER));
    if let Some(name) = named {
        return pod
            .containers
            .iter()
            .find(|container| container.name == *name)
            .ok_or_else(|| {
                Rejection::new(
                    "ContainerNotFound",
                    format!(
                        "the pod template has no container {name}: correct the annotation {} or spec.connection.container",
                        annotations::CONTAINER
                    ),
                )
            });
    }
    let telltale = |container: &Container| {
        env(container).any(|variable| TELLTALES.contains(&variable.name.as_str()))
    };
    let on_port = |container: &Container| {
        container
            .ports
            .iter()
            .flatten()
            .any(|port| port.container_port == i32::from(DEFAULT_PORT))
    };
    only(&pod.containers, telltale)
        .or_else(|| only(&pod.containers, on_port))
        .or_else(|| only(&pod.containers, |_| true))
        .ok_or_else(|| {
            Rejection::new(
                "ContainerNotFound",
                format!(
                    "cannot tell which of the containers {} runs PostgreSQL: name it with the annotation {} on the StatefulSet or with spec.connection.container",
                    names(&pod.containers),
                    annotations::CONTAINER
                ),
            )
        })
}

fn only<T>(items: &[T], accept: impl Fn(&T) -> bool) -> Option<&T> {
    let mut accepted = items.iter().filter(|item| accept(item));
    accepted.next().filter(|_| accepted.next().is_none())
}

fn names(containers: &[Container]) -> String {
    let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    names.join(", ")
}

fn env(container: &Container) -> impl Iterator<Item = &EnvVar> {
    container.env.iter().flatten()
}

fn port(
    container: &Container,
    marks: &BTreeMap<String, String>,
    connection: Option<&Connection>,
) -> Result<u16, Rejection> {
    if let Some(port) = connection.and_then(|connection| connection.port) {
        return Ok(u16::try_from(port).unwrap_or(DEFAULT_PORT));
    }
    if let Some(text) = marks.get(annotations::PORT) {
        return text.parse().map_err(|_| {
            Rejection::new(
                "PortInvalid",
                format!("the annotation {} is not a port number", annotations::PORT),
            )
        });
    }
    let declared: Vec<_> = container.ports.iter().flatten().collect();
    let named = |port: &&&k8s_openapi::api::core::v1::ContainerPort| {
        port.name
            .as_deref()
            .is_some_and(|name| name.starts_with("postgres") || name.starts_with("tcp-postgres"))
    };
    let chosen = declared
        .iter()
        .find(|port| port.container_port == i32::from(DEFAULT_PORT))
        .or_else(|| declared.iter().find(named))
        .or_else(|| only(&declared, |_| true))
        .map(|port| port.container_port);
    let from_env = || {
        env(container)
            .find(|variable| variable.name == "PGPORT")
            .and_then(|variable| variable.value.as_ref())
            .and_then(|value| value.parse().ok())
    };
    Ok(chosen
        .and_then(|port| u16::try_from(port).ok())
        .or_else(from_env)
        .unwrap_or(DEFAULT_PORT))
}

fn credentials(
    pod: &PodSpec,
    container: &Container,
    marks: &BTreeMap<String, String>,
    connection: Option<&Connection>,
) -> Result<(Value, Value), Rejection> {
    let said = connection.and_then(|connection| connection.credentials.as_ref());
    if let Some(said) = said {
        let key = |key: &Option<String>, default: &str| {
            secret(&said.secret_name, key.as_deref().unwrap_or(default))
        };
        return Ok((
            key(&said.user_key, "username"),
            key(&said.password_key, "password"),
        ));
    }
    if let Some(name) = marks.get(annotations::CREDENTIALS) {
        return Ok((secret(name, "username"), secret(name, "password")));
    }
    from_env(pod, container).ok_or_else(|| {
        Rejection::new(
            "CredentialsNotFound",
            format!(
                "the environment of container {} names no password (POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE): put a Secret with the keys username and password beside it and name it with the annotation {} on the StatefulSet or with spec.connection.credentials",
                container.name,
                annotations::CREDENTIALS
            ),
        )
    })
}

fn secret(name: &str, key: &str) -> Value {
    Value::Secret {
        name: name.to_owned(),
        key: key.to_owned(),
        optional: false,
    }
}

fn from_env(pod: &PodSpec, container: &Container) -> Option<(Value, Value)> {
    let default_user = || Value::Literal(DEFAULT_USER.to_owned());
    for (password, user) in PAIRS {
        if let Some(password) = variable(pod, container, password) {
            let user = user
                .and_then(|user| variable(pod, container, user))
                .unwrap_or_else(default_user);
            return Some((user, password));
        }
    }
    // What a Secret taken in as a whole holds is not ours to read: the usual keys, if it has them.
    let source = container
        .env_from
        .iter()
        .flatten()
        .find_map(|source| source.secret_ref.as_ref().map(|secret| (source, secret)));
    let (source, from) = source?;
    let prefix = source.prefix.clone().unwrap_or_default();
    let key = |variable: &str, optional| {
        variable.strip_prefix(&prefix).map(|key| Value::Secret {
            name: from.name.clone(),
            key: key.to_owned(),
            optional,
        })
    };
    let user = variable(pod, container, "POSTGRES_USER").or_else(|| key("POSTGRES_USER", true))?;
    Some((user, key("POSTGRES_PASSWORD", false)?))
}

/// The value of a variable, or of the file that `<name>_FILE` names.
fn variable(pod: &PodSpec, container: &Container, name: &str) -> Option<Value> {
    let find = |name: &str| env(container).find(|variable| variable.name == name);
    if let Some(value) = find(name).and_then(direct) {
        return Some(value);
    }
    let path = find(&format!("{name}_FILE"))?.value.as_ref()?;
    mounted_secret(pod, container, path)
}

fn direct(variable: &EnvVar) -> Option<Value> {
    if let Some(literal) = variable.value.as_ref().filter(|value| !value.is_empty()) {
        return Some(Value::Literal(literal.clone()));
    }
    let from = variable.value_from.as_ref()?;
    if let Some(SecretKeySelector { name, key, .. }) = &from.secret_key_ref {
        return Some(secret(name, key));
    }
    from.config_map_key_ref
        .as_ref()
        .map(|from| Value::ConfigMap {
            name: from.name.clone(),
            key: from.key.clone(),
        })
}

/// The key of the Secret that is mounted as the file `path`.
fn mounted_secret(pod: &PodSpec, container: &Container, path: &str) -> Option<Value> {
    let mount = super::mounts::innermost(container, path)?;
    let inside = super::mounts::inside(mount, path)?;
    let volume = pod
        .volumes
        .iter()
        .flatten()
        .find(|volume| volume.name == mount.name)?;
    secrets_of(volume)
        .into_iter()
        .find_map(|(name, items)| match items {
            Some(items) => items
                .iter()
                .find(|item| item.path == inside)
                .map(|item| secret(&name, &item.key)),
            None => Some(secret(&name, &inside)),
        })
}

type Items = Option<Vec<k8s_openapi::api::core::v1::KeyToPath>>;

/// The Secrets that a volume shows, each with its choice of keys.
fn secrets_of(volume: &Volume) -> Vec<(String, Items)> {
    if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        return vec![(name, source.items.clone())];
    }
    volume
        .projected
        .iter()
        .flat_map(|projected| projected.sources.iter().flatten())
        .filter_map(|source| source.secret.as_ref())
        .map(|source| (source.name.clone(), source.items.clone()))
        .collect()
}
