//! The OpenAPI 3.1 document, written from the route table.

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::problem::{PROBLEM_JSON, ProblemView};
use crate::route::{Access, AnswerSpec, BodySpec, Content, Parameter, Place, Route, schema_of, table};

/// Where the schemas stand in the document.
const DEFINITIONS: &str = "/components/schemas";

/// The document.
#[must_use]
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = DEFINITIONS.into();
        settings.meta_schema = None;
    });
    let mut generator = SchemaGenerator::new(settings);
    let problem = schema_of::<ProblemView>(&mut generator).to_value();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for route in table() {
        for (at, path) in route.full_paths().enumerate() {
            let operation = operation(&route, at, &mut generator, &problem);
            paths.entry(path).or_default().insert(route.verb.as_str().to_ascii_lowercase(), operation);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Aurigraph node",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Amounts are decimal strings of base units (10^18 are one AUR); hashes and addresses are 0x \
                            and 64 lower-case hex digits; times are RFC 3339 in UTC; durations are milliseconds unless \
                            the name says otherwise. Errors are RFC 9457 problems with a stable `code`.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" }
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } }
        }
    })
}

fn operation(route: &Route, at: usize, generator: &mut SchemaGenerator, problem: &Value) -> Value {
    let mut operation = json!({
        "operationId": if at == 0 { route.id.to_owned() } else { format!("{}AtRoot", route.id) },
        "summary": route.summary,
        "tags": [route.tag],
        "responses": responses(route, generator, problem),
    });
    let parameters: Vec<Value> = route.parameters.iter().map(|it| parameter(it, generator)).collect();
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(content) = body(route.body, generator) {
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    // An empty requirement beside the token: it is optional.
    match route.access {
        Access::Open => {}
        Access::Account => operation["security"] = json!([{}, { "bearer": [] }]),
        Access::Admin => operation["security"] = json!([{ "bearer": [] }]),
    }
    operation
}

fn parameter(parameter: &Parameter, generator: &mut SchemaGenerator) -> Value {
    let place = match parameter.place {
        Place::Path => "path",
        Place::Query => "query",
        Place::Header => "header",
    };
    json!({
        "name": parameter.name,
        "in": place,
        "required": parameter.place == Place::Path,
        "description": parameter.description,
        "schema": (parameter.schema)(generator),
    })
}

fn body(body: BodySpec, generator: &mut SchemaGenerator) -> Option<Value> {
    match body {
        BodySpec::Nothing => None,
        BodySpec::Json(schema) => Some(json!({ "application/json": { "schema": schema(generator) } })),
        BodySpec::JsonOrBinary(schema, form) => Some(json!({
            "application/json": { "schema": schema(generator) },
            "application/octet-stream": { "schema": { "type": "string", "format": "binary", "description": form } }
        })),
    }
}

fn answer(spec: &AnswerSpec, generator: &mut SchemaGenerator) -> Value {
    match spec.content {
        Content::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        Content::Text(media) => json!({ media: { "schema": { "type": "string" } } }),
    }
}

/// Problems that every route can give: a bad parameter or token, an unknown path, a wrong method, too many requests, a
/// failed read, a node that starts or is overloaded, an actor that does not answer.
const EVERYWHERE: [u16; 6] = [400, 401, 429, 500, 503, 504];

fn responses(route: &Route, generator: &mut SchemaGenerator, problem: &Value) -> Value {
    let mut responses = Map::new();
    for spec in &route.answers {
        let content = answer(spec, generator);
        responses.insert(spec.status.to_string(), json!({ "description": spec.description, "content": content }));
    }
    let statuses = EVERYWHERE.iter().chain(&route.problems);
    for status in statuses {
        let entry = responses.entry(status.to_string());
        let response = entry.or_insert_with(|| json!({ "description": meaning(*status), "content": {} }));
        response["content"][PROBLEM_JSON] = json!({ "schema": problem });
        if matches!(status, 429 | 503) {
            let seconds = json!({ "description": "Seconds to wait.", "schema": { "type": "integer", "minimum": 1 } });
            response["headers"] = json!({ "Retry-After": seconds });
        }
    }
    responses.into()
}

const fn meaning(status: u16) -> &'static str {
    match status {
        400 => "Malformed: the detail names the field.",
        401 => "No or bad credentials.",
        403 => "Not allowed.",
        404 => "Unknown.",
        408 => "The body did not arrive in time.",
        409 => "A conflict: the nonce, a duplicate, or an actor that is not running.",
        413 => "Too large.",
        415 => "Wrong content type.",
        422 => "Well-formed and refused by the ledger.",
        429 => "Over the limit.",
        500 => "What is stored could not be read.",
        503 => "Not ready or overloaded.",
        504 => "The actor behind the route did not answer in time.",
        _ => "Refused.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every `$ref` in the document, by its text.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    found.insert(target.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_in_the_document_resolves() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("references stay inside the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn ids_are_unique_and_every_operation_has_answers_and_its_path_parameters() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                let id = operation["operationId"].as_str().expect("an id");
                assert!(ids.insert(id.to_owned()), "{id} stands twice");
                let responses = operation["responses"].as_object().expect("responses");
                assert!(responses.contains_key("200"), "{method} {path}");
                let named: BTreeSet<&str> =
                    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
                let empty = Vec::new();
                let parameters = operation["parameters"].as_array().unwrap_or(&empty);
                let described: BTreeSet<&str> = parameters
                    .iter()
                    .filter(|parameter| parameter["in"] == "path")
                    .filter_map(|parameter| parameter["name"].as_str())
                    .collect();
                assert_eq!(named, described, "{method} {path}");
                assert_eq!(method == "post", operation.get("requestBody").is_some(), "{method} {path}");
            }
        }
    }

    #[test]
    fn no_name_is_written_in_another_case_than_camel() {
        fn names(value: &Value, found: &mut BTreeSet<String>) {
            if let Some(properties) = value.get("properties").and_then(Value::as_object) {
                found.extend(properties.keys().cloned());
            }
            match value {
                Value::Object(map) => map.values().for_each(|value| names(value, found)),
                Value::Array(list) => list.iter().for_each(|value| names(value, found)),
                _ => {}
            }
        }
        let mut found = BTreeSet::new();
        names(&document(), &mut found);
        assert!(found.contains("transactionCount"));
        let wrong: Vec<_> = found.iter().filter(|name| name.contains(['_', '-', ' '])).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
