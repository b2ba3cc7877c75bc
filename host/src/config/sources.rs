//! Where the configuration is written: a file, the environment, flags. Merges them, the later over
//! the earlier, and names every field that does not exist.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::error::Kind as FigmentKind;
use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::ConfigError;
use super::fields::{self, Kind};
use super::raw::RawConfig;

/// What every variable of the configuration begins with.
const PREFIX: &str = "FOLDHOST__";
/// Largest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The environment variables that begin with `FOLDHOST__`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })
            .collect()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Self(
            variables
                .filter(|(name, _): &(String, String)| name.starts_with(PREFIX))
                .collect(),
        )
    }
}

/// What flags say about the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--data`.
    pub data: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--admin-listen`.
    pub admin_listen: Option<String>,
    /// `--insecure`.
    pub insecure: bool,
}

/// Merges all sources over the defaults.
pub(super) fn merge(
    file: Option<&Path>,
    environment: &Environment,
    flags: &Flags,
    data_default: &str,
) -> Result<RawConfig, ConfigError> {
    let mut sources = Vec::new();
    let mut faults = Vec::new();
    if let Some(path) = file {
        match read_file(path) {
            Ok(dict) => {
                let source = Source {
                    name: path.display().to_string(),
                    dict,
                };
                unknown_fields(&source.dict, "", &source.name, &mut faults);
                sources.push(source);
            }
            Err(fault) => faults.push(fault),
        }
    }
    sources.push(environment_source(environment, &mut faults));
    sources.push(Source {
        name: "the flags".to_owned(),
        dict: flag_fields(flags),
    });
    if !faults.is_empty() {
        return Err(ConfigError::new(faults));
    }
    let defaults = Serialized::defaults(RawConfig::defaults(data_default));
    let merged = sources
        .into_iter()
        .fold(Figment::from(defaults), Figment::merge);
    merged
        .extract()
        .map_err(|error| ConfigError::new(error.into_iter().map(describe).collect()))
}

/// One place where fields are written.
#[derive(Debug)]
struct Source {
    name: String,
    dict: Dict,
}

impl Provider for Source {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

fn read_file(path: &Path) -> Result<Dict, String> {
    let shown = path.display();
    let size = std::fs::metadata(path)
        .map_err(|error| format!("cannot read {shown}: {error}"))?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(format!(
            "{shown} has {size} bytes: that is no configuration file"
        ));
    }
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    toml::from_str(&text)
        .map_err(|error| format!("{shown} is not TOML: {}", error.to_string().trim_end()))
}

fn unknown_fields(dict: &Dict, above: &str, place: &str, faults: &mut Vec<String>) {
    for (key, value) in dict {
        let path = if above.is_empty() {
            key.clone()
        } else {
            format!("{above}.{key}")
        };
        if path == fields::KAFKA {
            continue;
        }
        if !fields::is_known(&path) {
            faults.push(fields::unknown(&path, place));
            continue;
        }
        match value {
            Value::Dict(_, inner) => unknown_fields(inner, &path, place, faults),
            Value::Array(_, items) => {
                for item in items {
                    if let Value::Dict(_, inner) = item {
                        unknown_fields(inner, &path, place, faults);
                    }
                }
            }
            _ => {}
        }
    }
}

fn environment_source(environment: &Environment, faults: &mut Vec<String>) -> Source {
    let mut dict = Dict::new();
    for (name, text) in &environment.0 {
        let rest = name[PREFIX.len()..].to_ascii_lowercase();
        let path: Vec<String> = match rest.split_once("__") {
            Some((fields::KAFKA, key)) => vec![fields::KAFKA.to_owned(), key.replace('_', ".")],
            _ => rest
                .split("__")
                .map(|part| part.replace('_', "-"))
                .collect(),
        };
        let joined = path.join(".");
        let value = match fields::kind_of(&joined) {
            _ if path[0] == fields::KAFKA => Value::from(text.clone()),
            Some(kind) => read_variable(kind, text),
            None if joined == "auth.tokens" => read_variable(Kind::List, text),
            None => {
                faults.push(fields::unknown(
                    &joined,
                    &format!("the environment ({name})"),
                ));
                continue;
            }
        };
        insert(&mut dict, &path, value);
    }
    unknown_fields(&dict, "", "the environment", faults);
    Source {
        name: "the environment".to_owned(),
        dict,
    }
}

fn read_variable(kind: Kind, text: &str) -> Value {
    // Figment's reader never fails: what it does not understand is a text.
    let read = || text.parse::<Value>().unwrap_or_else(|never| match never {});
    match kind {
        Kind::Text => Value::from(text.to_owned()),
        Kind::Scalar => read(),
        Kind::List if text.trim_start().starts_with('[') => read(),
        Kind::List => {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            Value::from(
                items
                    .map(|item| Value::from(item.to_owned()))
                    .collect::<Vec<_>>(),
            )
        }
    }
}

fn insert(dict: &mut Dict, path: &[String], value: Value) {
    match path {
        [] => {}
        [leaf] => {
            dict.insert(leaf.clone(), value);
        }
        [section, rest @ ..] => {
            let inner = dict
                .entry(section.clone())
                .or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

fn flag_fields(flags: &Flags) -> Dict {
    let mut dict = Dict::new();
    let mut set = |name: &str, text: Option<String>| {
        if let Some(text) = text {
            dict.insert(name.to_owned(), Value::from(text));
        }
    };
    set(
        "data",
        flags
            .data
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned()),
    );
    set("listen", flags.listen.clone());
    set("admin-listen", flags.admin_listen.clone());
    if flags.insecure {
        dict.insert("insecure".to_owned(), Value::from(true));
    }
    dict
}

fn describe(error: figment::Error) -> String {
    let place = error
        .metadata
        .as_ref()
        .map_or("the configuration", |metadata| &*metadata.name);
    let path = error.path.join(".");
    match &error.kind {
        FigmentKind::MissingField(field) if path.is_empty() => {
            format!("'{field}' is missing in {place}")
        }
        FigmentKind::MissingField(field) => format!("'{path}' lacks '{field}' in {place}"),
        kind => format!("'{path}' in {place}: {kind}"),
    }
}
