//! The controller: reconciles Highwater's kinds, through the Kubernetes API only.
