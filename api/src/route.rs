//! The route table: one list from which the filters are mounted and the OpenAPI document is written.

use std::future::Future;
use std::pin::Pin;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::call::Call;
use crate::problem::Problem;
use crate::routes;

/// All routes stand below this path; some stand at the root too.
pub const PREFIX: &str = "/api/v11";

/// What a handler resolves to.
pub type Handled = Pin<Box<dyn Future<Output = Result<warp::reply::Response, Problem>> + Send>>;

/// Answers one request.
pub type Handler = fn(Call) -> Handled;

/// Writes a schema.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The schema of a view.
pub fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The methods in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// GET.
    Get,
    /// POST.
    Post,
}

impl Verb {
    /// As it stands in a request.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// Where a parameter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the path.
    Path,
    /// In the query string.
    Query,
    /// In a header.
    Header,
}

/// A parameter.
#[derive(Clone, Copy)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Where it stands.
    pub place: Place,
    /// What it means.
    pub description: &'static str,
    /// Its form.
    pub schema: SchemaOf,
}

/// A body that a route takes.
#[derive(Clone, Copy)]
pub enum BodySpec {
    /// None.
    Nothing,
    /// JSON.
    Json(SchemaOf),
    /// JSON, or bytes in the given form.
    JsonOrBinary(SchemaOf, &'static str),
}

/// What an answer's body is.
#[derive(Clone, Copy)]
pub enum Content {
    /// A JSON view.
    Json(SchemaOf),
    /// Text of a media type.
    Text(&'static str),
}

/// A good answer.
#[derive(Clone, Copy)]
pub struct AnswerSpec {
    /// Its status.
    pub status: u16,
    /// What it means.
    pub description: &'static str,
    /// Its body.
    pub content: Content,
}

/// What a route wants to see of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Open,
    /// A token is needed for some bodies.
    Account,
    /// The token of an admin.
    Admin,
}

/// One route.
#[derive(Clone)]
pub struct Route {
    /// The method.
    pub verb: Verb,
    /// The path below [`PREFIX`], `{name}` for a parameter.
    pub path: &'static str,
    /// It stands at the root too.
    pub at_root: bool,
    /// Its name in the document.
    pub id: &'static str,
    /// What it answers.
    pub summary: &'static str,
    /// Its group in the document.
    pub tag: &'static str,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// Its body.
    pub body: BodySpec,
    /// Its good answers.
    pub answers: Vec<AnswerSpec>,
    /// Statuses of its problems beyond those that every route can give.
    pub problems: Vec<u16>,
    /// What it wants to see.
    pub access: Access,
    /// Answers.
    pub handler: Handler,
}

impl Route {
    /// A route that reads and answers 200 with a view.
    #[must_use]
    pub fn get<T: JsonSchema>(
        path: &'static str,
        id: &'static str,
        tag: &'static str,
        summary: &'static str,
        handler: Handler,
    ) -> Self {
        let content = Content::Json(schema_of::<T>);
        Self {
            verb: Verb::Get,
            path,
            at_root: false,
            id,
            summary,
            tag,
            parameters: path_parameters(path),
            body: BodySpec::Nothing,
            answers: vec![AnswerSpec { status: 200, description: summary, content }],
            problems: Vec::new(),
            access: Access::Open,
            handler,
        }
    }

    /// A route that takes a JSON body and answers 200 with a view.
    #[must_use]
    pub fn post<B: JsonSchema, T: JsonSchema>(
        path: &'static str,
        id: &'static str,
        tag: &'static str,
        summary: &'static str,
        handler: Handler,
    ) -> Self {
        let body = BodySpec::Json(schema_of::<B>);
        Self { verb: Verb::Post, body, ..Self::get::<T>(path, id, tag, summary, handler) }.problems(&[408, 413, 415])
    }

    /// Adds statuses of problems.
    #[must_use]
    pub fn problems(mut self, statuses: &[u16]) -> Self {
        self.problems.extend_from_slice(statuses);
        self
    }

    /// Adds a good answer of the same form.
    #[must_use]
    pub fn also(mut self, status: u16, description: &'static str) -> Self {
        if let Some(content) = self.answers.first().map(|answer| answer.content) {
            self.answers.push(AnswerSpec { status, description, content });
        }
        self
    }

    /// The answer is text of this media type.
    #[must_use]
    pub fn text(mut self, media: &'static str) -> Self {
        for answer in &mut self.answers {
            answer.content = Content::Text(media);
        }
        self
    }

    /// The body may be binary too.
    #[must_use]
    pub fn or_binary(mut self, form: &'static str) -> Self {
        if let BodySpec::Json(schema) = self.body {
            self.body = BodySpec::JsonOrBinary(schema, form);
        }
        self
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query<T: JsonSchema>(self, name: &'static str, description: &'static str) -> Self {
        self.parameter(Parameter { name, place: Place::Query, description, schema: schema_of::<T> })
    }

    /// Adds a parameter.
    #[must_use]
    pub fn parameter(mut self, parameter: Parameter) -> Self {
        self.parameters.retain(|known| known.name != parameter.name);
        self.parameters.push(parameter);
        self
    }

    /// Adds `page` and `pageSize`.
    #[must_use]
    pub fn paged(self) -> Self {
        self.query::<routes::forms::PageNumber>("page", "Which page, from 1.")
            .query::<routes::forms::PageSize>("pageSize", "How many entries a page holds.")
    }

    /// It stands at the root too.
    #[must_use]
    pub const fn at_root(mut self) -> Self {
        self.at_root = true;
        self
    }

    /// What it wants to see of credentials.
    #[must_use]
    pub const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Every path under which it stands.
    pub fn full_paths(&self) -> impl Iterator<Item = String> + '_ {
        let root = self.at_root.then(|| self.path.to_owned());
        std::iter::once(format!("{PREFIX}{}", self.path)).chain(root)
    }
}

/// The parameters of a path, by their names.
fn path_parameters(path: &'static str) -> Vec<Parameter> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameter = |name| {
        let (schema, description): (SchemaOf, _) = match name {
            "height" => (schema_of::<routes::forms::Height>, "A height."),
            "seq" => (schema_of::<routes::forms::CheckpointNumber>, "A checkpoint's number, or `latest`."),
            "hash" | "txHash" => (schema_of::<routes::forms::HexInput>, "A hash: 0x and 64 hex digits."),
            "address" => (schema_of::<routes::forms::HexInput>, "An address: 0x and 64 hex digits."),
            "name" => (schema_of::<String>, "An actor's full name, percent-encoded."),
            _ => (schema_of::<String>, "An id."),
        };
        Parameter { name, place: Place::Path, description, schema }
    };
    names.map(parameter).collect()
}

/// All routes. The busiest stand first: filters are tried in this order.
#[must_use]
pub fn table() -> Vec<Route> {
    [
        routes::transactions::table(),
        routes::chain::table(),
        routes::network::table(),
        routes::node::table(),
        routes::audit::table(),
        routes::events::table(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
