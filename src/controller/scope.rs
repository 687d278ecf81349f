//! Where a controller works: in the whole cluster, or in one namespace, with rights in that one only.

use std::fmt;

use kube::{Api, Client, Resource, core::NamespaceResourceScope};

/// The namespaces whose objects a controller watches. Passes read and write in the namespace of their object only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    Cluster,
    /// This one.
    Namespace(String),
}

impl Scope {
    /// All objects of a namespaced kind within the scope: for watches.
    pub fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("all namespaces"),
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
        }
    }
}
