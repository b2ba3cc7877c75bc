//! A component as bytes: what it is, what it wants, and how one is made from a module. Called by the
//! engine before it compiles anything, and by `plugin build`, so that what builds also deploys.
//!
//! Invariant: a component that passes [`examine`] has a valid manifest that fits it, imports nothing but
//! the log, speaks this host's ABI and exports a kind of plugin that this host runs. Every fault is
//! reported, not only the first.

use wasmparser::{Encoding, Parser, Payload};

use super::manifest::SECTION;
use super::{Capabilities, Fault, Kind, Manifest};
use crate::limits;

/// The package of the ABI.
const PACKAGE: &str = super::bindings::PACKAGE;
/// The version of the ABI.
const VERSION: &str = super::bindings::VERSION;
/// What a component may import: the log, and the types that others share.
const IMPORTS: &[&str] = &["log", "types"];

/// What [`examine`] found out.
#[derive(Debug, Clone)]
pub struct Examined {
    /// From the custom section.
    pub manifest: Manifest,
    /// From the exports.
    pub capabilities: Capabilities,
    /// From the exports.
    pub kind: Kind,
}

/// The manifest's TOML as the component carries it; `None` where there is none.
#[must_use]
pub fn manifest_text(bytes: &[u8]) -> Option<String> {
    let surface = Surface::read(bytes).ok()?;
    String::from_utf8(surface.manifest?.to_vec()).ok()
}

/// Checks a component without compiling or running it.
///
/// # Errors
/// Every fault that was found.
pub fn examine(bytes: &[u8]) -> Result<Examined, Vec<Fault>> {
    if bytes.len() > limits::COMPONENT_BYTES_MAX {
        let detail = format!(
            "the component has {} bytes, more than the {} it may have: strip debug information, or \
             build with opt-level = \"s\"",
            bytes.len(),
            limits::COMPONENT_BYTES_MAX
        );
        return Err(vec![Fault {
            code: "too-large",
            detail,
        }]);
    }
    let surface = Surface::read(bytes).map_err(|fault| vec![fault])?;
    let mut faults = Vec::new();
    let manifest = surface.manifest(&mut faults);
    surface.check_imports(&mut faults);
    let capabilities = surface.capabilities(&mut faults);
    let kind = capabilities.kind();
    if kind.is_none() {
        faults.push(no_kind(capabilities));
    }
    if let Some(manifest) = &manifest {
        faults.extend(manifest.contradictions(capabilities));
    }
    match (manifest, kind, faults.is_empty()) {
        (Some(manifest), Some(kind), true) => Ok(Examined {
            manifest,
            capabilities,
            kind,
        }),
        _ => Err(faults),
    }
}

/// Kind of plugin that a component is by its exports, whatever else is wrong with it.
#[must_use]
pub fn kind_of(bytes: &[u8]) -> Option<Kind> {
    let surface = Surface::read(bytes).ok()?;
    surface.capabilities(&mut Vec::new()).kind()
}

/// Why a module could not be made a component.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// What the compiler wrote is no module of a plugin.
    #[error(
        "the module cannot be made a component: {0}; does the library call \
         foldhost_sdk::export!(…), and is it a cdylib?"
    )]
    Module(String),
    /// The component is none that a host would take.
    #[error("the component would be refused: {}", list(.0))]
    Refused(Vec<Fault>),
}

/// Makes a deployable component of a core module whose custom sections hold its WIT (as
/// `wit-bindgen` writes them) and the text of a manifest, and checks it as a host does.
///
/// # Errors
/// [`EncodeError`].
pub fn encode(module: &[u8], manifest: &str) -> Result<(Vec<u8>, Examined), EncodeError> {
    let mut component = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| EncodeError::Module(format!("{error:#}")))?;
    let section = wasm_encoder::CustomSection {
        name: SECTION.into(),
        data: manifest.as_bytes().into(),
    };
    wasm_encoder::ComponentSection::append_to_component(&section, &mut component);
    let examined = examine(&component).map_err(EncodeError::Refused)?;
    Ok((component, examined))
}

fn list(faults: &[Fault]) -> String {
    faults
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// The outside of a component: custom section, imports, exports.
#[derive(Debug, Default)]
struct Surface<'a> {
    manifest: Option<&'a [u8]>,
    imports: Vec<&'a str>,
    exports: Vec<&'a str>,
}

impl<'a> Surface<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        if Parser::is_core_wasm(bytes) {
            return Err(Fault {
                code: "not-a-component",
                detail:
                    "this is a core WebAssembly module, not a component: build the plugin with \
                         `foldhost plugin build DIR` and deploy what it writes"
                        .to_owned(),
            });
        }
        if !Parser::is_component(bytes) {
            return Err(Fault {
                code: "not-wasm",
                detail:
                    "this is not WebAssembly: deploy the .wasm that `foldhost plugin build DIR` \
                         writes"
                        .to_owned(),
            });
        }
        Self::parse(bytes).map_err(|error| Fault {
            code: "not-wasm",
            detail: format!("the component is damaged ({error}): build it again"),
        })
    }

    /// Reads the top level only; modules and components inside it have surfaces of their own.
    fn parse(bytes: &'a [u8]) -> wasmparser::Result<Self> {
        let mut surface = Self::default();
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::Version { encoding, .. } if depth == 0 => {
                    debug_assert_eq!(encoding, Encoding::Component);
                }
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::CustomSection(section) if depth == 0 && section.name() == SECTION => {
                    surface.manifest.get_or_insert(section.data());
                }
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        surface.imports.push(import?.name.name);
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        surface.exports.push(export?.name.name);
                    }
                }
                _ => {}
            }
        }
        Ok(surface)
    }

    fn manifest(&self, faults: &mut Vec<Fault>) -> Option<Manifest> {
        let Some(section) = self.manifest else {
            faults.push(Fault {
                code: "no-manifest",
                detail: format!(
                    "the component has no manifest (no custom section {SECTION}): build it with \
                     `foldhost plugin build DIR`, which embeds DIR/plugin.toml"
                ),
            });
            return None;
        };
        let bad = |detail: String| Fault {
            code: "bad-manifest",
            detail,
        };
        let Ok(text) = std::str::from_utf8(section) else {
            faults.push(bad(
                "the manifest is not UTF-8: build the plugin again".to_owned()
            ));
            return None;
        };
        Manifest::from_toml(text)
            .map_err(|found| {
                faults.extend(found.iter().map(|fault| bad(format!("manifest: {fault}"))));
            })
            .ok()
    }

    fn check_imports(&self, faults: &mut Vec<Fault>) {
        for import in &self.imports {
            match Interface::of(import) {
                Some(interface) if !IMPORTS.contains(&interface.name) => {
                    faults.push(forbidden(import));
                }
                Some(interface) => faults.extend(interface.wrong_abi("imports")),
                None => faults.push(forbidden(import)),
            }
        }
    }

    fn capabilities(&self, faults: &mut Vec<Fault>) -> Capabilities {
        let mut has = Capabilities::default();
        let mut describes = false;
        for interface in self
            .exports
            .iter()
            .filter_map(|export| Interface::of(export))
        {
            if let Some(fault) = interface.wrong_abi("exports") {
                faults.push(fault);
            }
            match interface.name {
                "fold" => has.fold = true,
                "react" => has.react = true,
                "decide" => has.decide = true,
                "query" => has.query = true,
                "route" => has.route = true,
                "migrate" => has.migrate = true,
                "configure" => has.configure = true,
                "emit-state" => has.emit_state = true,
                "describe" => describes = true,
                unknown => faults.push(Fault {
                    code: "wrong-abi",
                    detail: format!(
                        "the component exports {PACKAGE}/{unknown}, which this foldhost ({}) does \
                         not know: upgrade the host, or build with the SDK of its version",
                        env!("CARGO_PKG_VERSION")
                    ),
                }),
            }
        }
        if has.kind().is_some() && !describes {
            faults.push(Fault {
                code: "wrong-abi",
                detail: format!(
                    "the component does not export {PACKAGE}/describe, which every plugin does: \
                     build it with the SDK that belongs to this host"
                ),
            });
        }
        has
    }
}

/// An interface of the ABI's package, of any version.
struct Interface<'a> {
    name: &'a str,
    version: &'a str,
}

impl<'a> Interface<'a> {
    fn of(full: &'a str) -> Option<Self> {
        let rest = full.strip_prefix(PACKAGE)?.strip_prefix('/')?;
        let (name, version) = rest.split_once('@').unwrap_or((rest, ""));
        Some(Self { name, version })
    }

    fn wrong_abi(&self, verb: &str) -> Option<Fault> {
        (self.version != VERSION).then(|| Fault {
            code: "wrong-abi",
            detail: format!(
                "the component {verb} {PACKAGE}/{} of version '{}', this host speaks {VERSION}: \
                 build it with the SDK that belongs to this host",
                self.name, self.version
            ),
        })
    }
}

fn forbidden(import: &str) -> Fault {
    Fault {
        code: "forbidden-import",
        detail: format!(
            "the component imports {import}: a plugin may import {PACKAGE}/log@{VERSION} and nothing \
             else (no clock, randomness, files, network or WASI); build for \
             wasm32-unknown-unknown and drop what needs it"
        ),
    }
}

fn no_kind(capabilities: Capabilities) -> Fault {
    let detail = if capabilities.react && capabilities.decide {
        "the component exports both react and decide: a plugin is a republisher or a command \
         handler, so split it"
    } else {
        "the component exports nothing that makes it a plugin: implement View, Republisher or \
         CommandHandler, and call foldhost_sdk::export!(…)"
    };
    Fault {
        code: "no-kind",
        detail: detail.to_owned(),
    }
}
