//! The OpenAPI document, generated from the handlers: what utoipa collects, and what holds for every
//! operation (its scope, its problems).

use std::collections::BTreeSet;

use utoipa::PartialSchema as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, Content, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Ref, ResponseBuilder,
};

use super::Group;
use super::problem::ProblemDocument;

/// Name of the security scheme.
const TOKEN: &str = "token";

/// The document of all groups together.
pub(super) fn document(groups: Vec<Group>) -> OpenApi {
    let info = InfoBuilder::new()
        .title("foldhost")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Views, topics and plugins of a foldhost. Every error is a problem (RFC 9457) with a stable \
             `code`. Offsets, lags and generations are JSON numbers: no log reaches 2^53.",
        ))
        .build();
    let mut document = OpenApiBuilder::new().info(info).build();
    for group in groups {
        let mut routes = group.routes.into_openapi();
        for item in routes.paths.paths.values_mut() {
            for operation in operations(item) {
                describe(operation, group.scopes);
            }
        }
        document.merge(routes);
    }
    name_operations(&mut document);
    let components = document.components.get_or_insert(Components::new());
    components
        .schemas
        .insert("Problem".to_owned(), ProblemDocument::schema());
    components.security_schemes.insert(
        TOKEN.to_owned(),
        SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)).into(),
    );
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.post,
        &mut item.put,
        &mut item.patch,
        &mut item.delete,
    ]
    .into_iter()
    .flatten()
}

/// What holds for every operation of a group.
fn describe(operation: &mut Operation, scopes: &[crate::config::Scope]) {
    let problem = ResponseBuilder::new()
        .description("Why it was not done")
        .content(
            "application/problem+json",
            Content::new(Some(Ref::from_schema_name("Problem"))),
        )
        .build();
    operation
        .responses
        .responses
        .insert("default".to_owned(), problem.into());
    if !scopes.is_empty() {
        let names = scopes.iter().map(|scope| scope.as_str());
        operation.security = Some(
            names
                .map(|scope| SecurityRequirement::new(TOKEN, [scope]))
                .collect(),
        );
    }
}

/// Operation ids are unique: a handler that takes several methods has its id as often.
fn name_operations(document: &mut OpenApi) {
    for item in document.paths.paths.values_mut() {
        let mut seen = BTreeSet::new();
        let methods = [
            ("get", &mut item.get),
            ("with_body", &mut item.post),
            ("by_put", &mut item.put),
            ("by_patch", &mut item.patch),
            ("by_delete", &mut item.delete),
        ];
        for (suffix, operation) in methods {
            let Some(id) = operation.as_mut().and_then(|it| it.operation_id.as_mut()) else {
                continue;
            };
            if !seen.insert(id.clone()) {
                *id = format!("{id}_{suffix}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_an_id_of_its_own_and_tells_its_problems() {
        let mut document = document(super::super::groups());
        let mut ids = BTreeSet::new();
        for (path, item) in &mut document.paths.paths {
            for operation in operations(item) {
                let id = operation.operation_id.clone().unwrap();
                assert!(ids.insert(id.clone()), "{path}: {id} stands twice");
                assert!(
                    operation.responses.responses.contains_key("default"),
                    "{path}"
                );
                assert!(operation.summary.is_some(), "{path}");
            }
        }
        assert!(ids.contains("append_records") && ids.contains("read_records"));
    }

    #[test]
    fn every_reference_has_its_schema() {
        let document = document(super::super::groups());
        let json = serde_json::to_value(&document).unwrap();
        let schemas = json["components"]["schemas"].as_object().unwrap();
        let text = json.to_string();
        let references = text.split("\"#/components/schemas/").skip(1);
        for name in references.map(|rest| rest.split('"').next().unwrap()) {
            assert!(schemas.contains_key(name), "{name}");
        }
        assert!(schemas.contains_key("Problem"));
    }
}
