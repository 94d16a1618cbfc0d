//! An authorization server of any profile that returns prepared responses and records its requests, to check that a client
//! sends what its provider documents.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::hostile::{Behaviour, Hostile, reply};

/// One received request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    /// Of the query, or of the form or JSON in the body.
    pub parameters: BTreeMap<String, String>,
}

/// The server.
pub struct Strict {
    pub origin: String,
    responses: Arc<Mutex<VecDeque<(String, u16, Value)>>>,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Strict {
    /// Listens on this machine.
    pub fn listen() -> Self {
        let responses: Arc<Mutex<VecDeque<(String, u16, Value)>>> = Arc::default();
        let asked: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (prepared, recorded) = (Arc::clone(&responses), Arc::clone(&asked));
        let server = Hostile::listen("127.0.0.1:0", move |request| {
            let request = read(&request.text);
            let mut prepared = prepared.lock().unwrap_or_else(PoisonError::into_inner);
            let next = prepared
                .iter()
                .position(|(path, ..)| *path == request.path)
                .and_then(|at| prepared.remove(at));
            recorded
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(request);
            let (status, body) =
                next.map_or((404, Value::Null), |(_, status, body)| (status, body));
            Behaviour::Close(reply(
                &format!("{status} Status"),
                "Connection: close\r\n",
                &body.to_string(),
            ))
        });
        Self {
            origin: format!("http://{}", server.address),
            responses,
            asked,
        }
    }

    /// Prepares the response to the next request there; any other gets 404.
    pub fn respond(&self, path: &str, status: u16, body: Value) {
        self.responses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back((path.to_owned(), status, body));
    }

    /// Requests received there so far.
    pub fn asked(&self, path: &str) -> Vec<Request> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked
            .iter()
            .filter(|request| request.path == path)
            .cloned()
            .collect()
    }
}

impl Request {
    /// A parameter, which must be present.
    #[track_caller]
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

fn read(text: &str) -> Request {
    let (head, body) = text.split_once("\r\n\r\n").expect("a request");
    let mut lines = head.lines();
    let mut first = lines.next().expect("a line").split(' ');
    let (method, target) = (
        first.next().expect("a method"),
        first.next().expect("a target"),
    );
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let is_json = headers
        .get("content-type")
        .is_some_and(|kind| kind == "application/json");
    let mut parameters: BTreeMap<String, String> = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    if is_json {
        let body: BTreeMap<String, String> =
            serde_json::from_str(body).expect("a JSON object of strings");
        parameters.extend(body);
    } else {
        parameters.extend(url::form_urlencoded::parse(body.as_bytes()).into_owned());
    }
    Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers,
        parameters,
    }
}
