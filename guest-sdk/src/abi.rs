//! The generated bindings of `wit/`: one tiny world per capability, which wit-component merges.
//!
//! Used by the rest of the SDK for the shapes of batches, and by [`export!`](crate::export) for what
//! a plugin exports. A world here exports one interface, so that a component offers exactly the
//! capabilities that its `export!` names; all of them share the types of the first.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unsafe_code,
    clippy::all
)]

pub mod base {
    wit_bindgen::generate!({
        inline: "
            package foldhost:sdk;
            world base {
                import foldhost:plugin/types@0.1.0;
                import foldhost:plugin/log@0.1.0;
            }
        ",
        path: "../wit",
        generate_all,
        generate_unused_types: true,
    });
}

pub use base::foldhost::plugin::{log, types};

pub mod fold {
    wit_bindgen::generate!({
        inline: "package foldhost:sdk; world fold { export foldhost:plugin/fold@0.1.0; }",
        path: "../wit",
        with: {
            "foldhost:plugin/types@0.1.0": crate::abi::types,
            "foldhost:plugin/fold@0.1.0": generate,
        },
        pub_export_macro: true,
    });
    pub use exports::foldhost::plugin::fold::Guest;
}

pub mod react {
    wit_bindgen::generate!({
        inline: "package foldhost:sdk; world react { export foldhost:plugin/react@0.1.0; }",
        path: "../wit",
        with: {
            "foldhost:plugin/types@0.1.0": crate::abi::types,
            "foldhost:plugin/react@0.1.0": generate,
        },
        pub_export_macro: true,
    });
    pub use exports::foldhost::plugin::react::Guest;
}

pub mod route {
    wit_bindgen::generate!({
        inline: "package foldhost:sdk; world route { export foldhost:plugin/route@0.1.0; }",
        path: "../wit",
        with: {
            "foldhost:plugin/types@0.1.0": crate::abi::types,
            "foldhost:plugin/route@0.1.0": generate,
        },
        pub_export_macro: true,
    });
    pub use exports::foldhost::plugin::route::{Guest, Records, Routes};
}

pub mod query {
    wit_bindgen::generate!({
        inline: "package foldhost:sdk; world query { export foldhost:plugin/query@0.1.0; }",
        path: "../wit",
        with: {
            "foldhost:plugin/types@0.1.0": crate::abi::types,
            "foldhost:plugin/query@0.1.0": generate,
        },
        pub_export_macro: true,
    });
    pub use exports::foldhost::plugin::query::{Guest, QueryError, Request};
}

pub mod decide {
    wit_bindgen::generate!({
        inline: "package foldhost:sdk; world decide { export foldhost:plugin/decide@0.1.0; }",
        path: "../wit",
        with: {
            "foldhost:plugin/types@0.1.0": crate::abi::types,
            "foldhost:plugin/decide@0.1.0": generate,
        },
        pub_export_macro: true,
    });
    pub use exports::foldhost::plugin::decide::{Command, Decision, Guest, Refusal};
}

pub mod emit_state {
    wit_bindgen::generate!({
        inline: "package foldhost:sdk; world emit-state { export foldhost:plugin/emit-state@0.1.0; }",
        path: "../wit",
        with: {
            "foldhost:plugin/types@0.1.0": crate::abi::types,
            "foldhost:plugin/emit-state@0.1.0": generate,
        },
        pub_export_macro: true,
    });
    pub use exports::foldhost::plugin::emit_state::Guest;
}

pub mod migrate {
    wit_bindgen::generate!({
        inline: "package foldhost:sdk; world migrate { export foldhost:plugin/migrate@0.1.0; }",
        path: "../wit",
        with: {
            "foldhost:plugin/types@0.1.0": crate::abi::types,
            "foldhost:plugin/migrate@0.1.0": generate,
        },
        pub_export_macro: true,
    });
    pub use exports::foldhost::plugin::migrate::Guest;
}

pub mod configure {
    wit_bindgen::generate!({
        inline: "package foldhost:sdk; world configure { export foldhost:plugin/configure@0.1.0; }",
        path: "../wit",
        with: { "foldhost:plugin/configure@0.1.0": generate },
        pub_export_macro: true,
    });
    pub use exports::foldhost::plugin::configure::Guest;
}

pub mod describe {
    wit_bindgen::generate!({
        inline: "package foldhost:sdk; world describe { export foldhost:plugin/describe@0.1.0; }",
        path: "../wit",
        with: { "foldhost:plugin/describe@0.1.0": generate },
        pub_export_macro: true,
    });
    pub use exports::foldhost::plugin::describe::{Description, Guest, Operation, Schema};
}
