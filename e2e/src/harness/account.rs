//! What could be asked with a program's token: the requests of somebody who has stolen it.

use anyhow::{Context, Result, anyhow, ensure};
use http::header::{CONTENT_TYPE, USER_AGENT};
use kube::{
    Client, Config, Error,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use super::{Kubectl, audit::TESTER, kubeconfig};

/// A ServiceAccount, by a token of its own.
pub struct Account {
    client: Client,
    name: String,
}

/// One request.
pub struct Request {
    /// The HTTP method.
    pub method: &'static str,
    /// Path and query.
    pub path: String,
    /// The kind of the body, and the body.
    pub body: Option<(&'static str, Value)>,
}

impl Account {
    /// The account `name`, as itself.
    ///
    /// # Errors
    /// There is none, or this is not the dev cluster.
    pub async fn of(kubectl: &Kubectl, namespace: &str, name: &str) -> Result<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let token = kubectl.run(&["-n", namespace, "create", "token", name])?;
        let mut kubeconfig = Kubeconfig::read_from(kubeconfig()?)?;
        for user in &mut kubeconfig.auth_infos {
            user.auth_info = Some(AuthInfo {
                token: Some(token.trim().to_owned().into()),
                ..AuthInfo::default()
            });
        }
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        Ok(Self {
            client: Client::try_from(config)?,
            name: name.to_owned(),
        })
    }

    /// Asks, and says with which words the API server forbids it.
    ///
    /// # Errors
    /// Any other answer than yes or 403: then nothing is known of the rights.
    pub async fn ask(&self, request: &Request) -> Result<Option<String>> {
        let Request { method, path, body } = request;
        let mut builder = http::Request::builder().method(*method).uri(path);
        builder = builder.header(USER_AGENT, TESTER);
        let bytes = match body {
            Some((kind, body)) => {
                builder = builder.header(CONTENT_TYPE, *kind);
                serde_json::to_vec(body)?
            }
            None => Vec::new(),
        };
        match self.client.request_text(builder.body(bytes)?).await {
            Ok(_) => Ok(None),
            Err(Error::Api(status)) if status.code == 403 => Ok(Some(status.message.clone())),
            Err(error) => Err(anyhow!(error).context(format!("{}: {method} {path}", self.name))),
        }
    }

    /// Requires that it is allowed.
    ///
    /// # Errors
    /// It is not.
    pub async fn may(&self, request: &Request) -> Result<()> {
        let refused = self.ask(request).await?;
        let Request { method, path, .. } = request;
        ensure!(
            refused.is_none(),
            "{} may not {method} {path}: {refused:?}",
            self.name
        );
        Ok(())
    }

    /// Requires that it is forbidden, in words that hold `by`.
    ///
    /// # Errors
    /// It is allowed, or forbidden by something else.
    pub async fn may_not(&self, request: &Request, by: &str) -> Result<()> {
        let refused = self.ask(request).await?;
        let Request { method, path, body } = request;
        let refused =
            refused.with_context(|| format!("{} may {method} {path} {body:?}", self.name))?;
        ensure!(
            refused.contains(by),
            "{method} {path}: not by {by:?}: {refused}"
        );
        Ok(())
    }
}
