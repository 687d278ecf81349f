//! Generates the gRPC code from the published protocol files, which are taken from the Go module
//! cache and not copied into this tree.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// A protocol file inside a Go module.
struct Source {
    module: &'static str,
    version: &'static str,
    /// Go's own checksum of the module, so that a different content never compiles unnoticed.
    sum: &'static str,
    file: &'static str,
    /// The name it gets in the build folder, which is the include path.
    name: &'static str,
}

const SOURCES: [Source; 2] = [
    Source {
        module: "github.com/container-storage-interface/spec",
        version: "v1.12.0",
        sum: "h1:zrFOEqpR5AghNaaDG4qyedwPBqU2fU0dWjLQMP/azK0=",
        file: "csi.proto",
        name: "csi.proto",
    },
    Source {
        module: "k8s.io/kubelet",
        version: "v0.36.3",
        sum: "h1:dRzEnhHk35Opy6wjWR4YBcN5RI9lB2npUY37TghFuPU=",
        file: "pkg/apis/pluginregistration/v1/api.proto",
        name: "pluginregistration.proto",
    },
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let include = out.join("proto");
    fs::create_dir_all(&include)?;
    for source in &SOURCES {
        let folder = module_folder(source, &out)?;
        let text = fs::read_to_string(folder.join(source.file))?;
        fs::write(include.join(source.name), without_gogoproto(&text))?;
    }
    let names = SOURCES.map(|source| source.name);
    let descriptors = protox::compile(names, [&include])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

/// The module's folder in Go's module cache; downloads it only when it is not there yet.
fn module_folder(source: &Source, workdir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let query = format!("{}@{}", source.module, source.version);
    // Outside any Go module, and without flags of the user's that only make sense inside one.
    let output = Command::new("go")
        .args(["mod", "download", "-json", &query])
        .current_dir(workdir)
        .env("GOFLAGS", "")
        .env("GOWORK", "off")
        .output()
        .map_err(|e| format!("failed to run go: {e}; install Go, it fetches {query}"))?;
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let field = |name: &str| reply.get(name).and_then(|v| v.as_str()).map(str::to_owned);
    let Some(folder) = field("Dir") else {
        let cause = field("Error")
            .unwrap_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned());
        return Err(format!("failed to download {query}: {cause}; check GOPROXY").into());
    };
    if field("Sum").as_deref() != Some(source.sum) {
        return Err(format!(
            "failed to verify {query}: its checksum is not {}",
            source.sum
        )
        .into());
    }
    Ok(folder.into())
}

/// Older releases of kubelet's file carry options for a Go code generator, which mean nothing here.
fn without_gogoproto(text: &str) -> String {
    let kept = text.lines().filter(|line| !line.contains("gogoproto"));
    kept.collect::<Vec<_>>().join("\n")
}
