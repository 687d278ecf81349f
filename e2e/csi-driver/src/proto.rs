//! The gRPC code generated from `csi.proto` and kubelet's plugin registration protocol.
#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used)]
#![allow(rustdoc::all)]

/// CSI v1.12.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// Kubelet's plugin registration v1.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
