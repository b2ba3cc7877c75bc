//! The example plugins that are part of the program. Deployed by `demo`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;

use crate::cli::output;
use crate::cli::plugin_build;

/// An example plugin.
#[derive(Debug, Clone)]
pub(super) struct Bundled {
    /// Its name.
    pub(super) name: &'static str,
    /// Its component.
    pub(super) component: Bytes,
}

/// Name, and component as it was built from `plugins/<name>`. Who publishes a topic stands before who reads
/// it: its deployment creates the topic.
const PLUGINS: [(&str, &[u8]); 5] = [
    (
        TRACKER,
        include_bytes!("../../../../plugins/prebuilt/plane-tracker.wasm"),
    ),
    (
        UTILISATION,
        include_bytes!("../../../../plugins/prebuilt/plane-utilisation.wasm"),
    ),
    (
        LATEST,
        include_bytes!("../../../../plugins/prebuilt/latest.wasm"),
    ),
    (
        ONBOARDING,
        include_bytes!("../../../../plugins/prebuilt/fleet-onboarding.wasm"),
    ),
    (
        INBOX,
        include_bytes!("../../../../plugins/prebuilt/notification-inbox.wasm"),
    ),
];

/// Where a plane is.
pub(super) const TRACKER: &str = "plane-tracker";
/// How much of a window it was in the air.
pub(super) const UTILISATION: &str = "plane-utilisation";
/// The newest JSON value of a key.
pub(super) const LATEST: &str = "latest";
/// Tells users of planes that are new in the groups they may see.
pub(super) const ONBOARDING: &str = "fleet-onboarding";
/// What a user was told of.
pub(super) const INBOX: &str = "notification-inbox";

/// The plugins as they are in the program.
pub(super) fn prebuilt() -> Vec<Bundled> {
    let plugins = PLUGINS.iter();
    plugins
        .map(|(name, component)| Bundled {
            name,
            component: Bytes::from_static(component),
        })
        .collect()
}

/// The plugins, built now from the sources around the current folder.
///
/// # Errors
/// No sources; whatever keeps a plugin from being built.
pub(super) fn built() -> anyhow::Result<Vec<Bundled>> {
    let plugins = sources(&std::env::current_dir()?)?;
    let build = |(name, _): &(&'static str, _)| {
        let path = plugin_build::build(&plugins.join(name), &mut output::note)?;
        let component =
            std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Bundled {
            name,
            component: Bytes::from(component),
        })
    };
    PLUGINS.iter().map(build).collect()
}

/// The folder `plugins` of the clone that `start` lies in.
fn sources(start: &Path) -> anyhow::Result<PathBuf> {
    let mut folders = start.ancestors().map(|folder| folder.join("plugins"));
    folders
        .find(|plugins| plugins.join(TRACKER).join("plugin.toml").is_file())
        .with_context(|| {
            format!(
                "--build needs the sources: {} is not inside a clone of foldhost; start it there, or \
                 leave --build out",
                start.display()
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{Manifest, component};

    #[test]
    fn what_is_in_the_program_can_be_deployed() {
        for plugin in prebuilt() {
            let examined = component::examine(&plugin.component).unwrap();
            assert_eq!(examined.manifest.name.as_str(), plugin.name);
        }
    }

    #[test]
    fn who_publishes_a_topic_is_deployed_before_who_reads_it() {
        let manifest = |plugin: Bundled| {
            let text = component::manifest_text(&plugin.component).unwrap();
            Manifest::from_toml(&text).unwrap()
        };
        let manifests: Vec<_> = prebuilt().into_iter().map(manifest).collect();
        let mut published = 0;
        for (index, manifest) in manifests.iter().enumerate() {
            let Some(output) = &manifest.output else {
                continue;
            };
            published += 1;
            let reads = |other: &Manifest| {
                let mut inputs = other.inputs.iter();
                inputs.any(|input| input.topic == output.topic)
            };
            assert!(!manifests[..=index].iter().any(reads), "{}", manifest.name);
            assert!(manifests[index..].iter().any(reads), "nobody reads it");
        }
        assert_eq!(published, 1);
    }

    #[test]
    fn sources_are_found_from_inside_a_clone_only() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        assert!(sources(&here).unwrap().join(LATEST).is_dir());
        let outside = tempfile::tempdir().unwrap();
        assert!(
            sources(outside.path())
                .unwrap_err()
                .to_string()
                .contains("--build")
        );
    }
}
