//! The requests of the demonstration, by a client that follows a redirect by itself, so that it can say so.

use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::http::Response;

use crate::Result;

const TOKEN: &str = "larder-token";

#[derive(Clone)]
pub(crate) struct Client(Agent);

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) token: Option<String>,
    /// Where else to ask.
    pub(crate) location: Option<String>,
    pub(crate) body: String,
    pub(crate) after: Duration,
}

impl Client {
    pub(crate) fn new() -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(60)));
        Self(config.build().into())
    }

    pub(crate) fn get(&self, url: &str, token: Option<&str>) -> Result<Answer> {
        let asked = Instant::now();
        let mut request = self.0.get(url);
        if let Some(token) = token {
            request = request.header(TOKEN, token);
        }
        Answer::read(asked, request.call()?)
    }

    pub(crate) fn post(&self, url: &str, token: Option<&str>, body: &str) -> Result<Answer> {
        let asked = Instant::now();
        let mut request = self.0.post(url);
        if let Some(token) = token {
            request = request.header(TOKEN, token);
        }
        Answer::read(asked, request.send(body)?)
    }
}

impl Answer {
    fn read(asked: Instant, mut response: Response<ureq::Body>) -> Result<Self> {
        let header = |name| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let (token, location) = (header(TOKEN), header("location"));
        Ok(Self {
            status: response.status().as_u16(),
            token,
            location,
            body: response.body_mut().read_to_string()?.trim_end().to_owned(),
            after: asked.elapsed(),
        })
    }
}
