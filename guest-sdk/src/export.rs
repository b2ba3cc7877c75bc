//! [`export!`](crate::export): makes a crate a plugin.
//!
//! Invoked once by every plugin. Invariant: the component exports exactly the capabilities that are
//! named, and natively (in tests) the macro only checks that the traits are there.

/// Makes this crate a foldhost plugin: `export!(Type)` for a [`View`](crate::View) without queries,
/// `export!(Type: Republisher)` for a [`Republisher`](crate::Republisher), `export!(Type: CommandHandler)` for
/// a [`CommandHandler`](crate::CommandHandler) with the fold of its state (`StatelessCommandHandler` without),
/// and with each any of [`Query`](crate::Query), [`Migrate`](crate::Migrate), [`Configure`](crate::Configure),
/// [`Route`](crate::Route) and, of a command handler, [`EmitState`](crate::EmitState), as in
/// `export!(Type: View + Query)`. Once per crate; the crate is a `cdylib`.
///
/// What is named here is what the component offers: the host tells a plugin's kind and capabilities
/// from its exports.
///
/// ```
/// # use foldhost_sdk::{Event, Json, NoArguments, Queries, Query, Raw, Reject, View};
/// # struct Tally;
/// # impl View for Tally {
/// #     type State = Json<u64>;
/// #     type Event = Raw;
/// #     fn fold(state: &mut Option<Json<u64>>, _event: &Event<Raw>) -> Result<(), Reject> {
/// #         state.get_or_insert_default().0 += 1;
/// #         Ok(())
/// #     }
/// # }
/// # impl Query for Tally {
/// #     fn queries(on: &mut Queries<Self>) {
/// #         on.default("The count").answer(|question, NoArguments {}| Ok(question.state()?.0));
/// #     }
/// # }
/// foldhost_sdk::export!(Tally: View + Query);
/// ```
///
/// A capability whose trait is not implemented does not compile:
///
/// ```compile_fail
/// # use foldhost_sdk::{Event, Raw, Reject, View};
/// # struct Keep;
/// # impl View for Keep {
/// #     type State = Raw;
/// #     type Event = Raw;
/// #     fn fold(state: &mut Option<Raw>, event: &Event<Raw>) -> Result<(), Reject> { Ok(()) }
/// # }
/// foldhost_sdk::export!(Keep: View + Query); // Keep is no Query
/// ```
///
/// Nor does a republisher that is named a view, since nothing that it emits would be published:
///
/// ```compile_fail
/// # use foldhost_sdk::{Event, Outputs, Raw, Reject, Republisher};
/// # struct Forward;
/// # impl Republisher for Forward {
/// #     type State = Raw;
/// #     type Event = Raw;
/// #     type Output = Raw;
/// #     fn react(_: &mut Option<Raw>, event: &Event<Raw>, out: &mut Outputs<Raw>) -> Result<(), Reject> {
/// #         out.emit(event.key(), event.required()?);
/// #         Ok(())
/// #     }
/// # }
/// foldhost_sdk::export!(Forward: View); // name it `Forward: Republisher`
/// ```
///
/// Nor does a command handler whose kind of state is not the one that is named: without its fold it would
/// decide as if nothing had ever happened.
///
/// ```compile_fail
/// # use foldhost_sdk::{CommandHandler, Commands, Event, Json, NoArguments, Reject, View};
/// # struct Counter;
/// # impl View for Counter {
/// #     type State = Json<u64>;
/// #     type Event = Json<u64>;
/// #     fn fold(_: &mut Option<Json<u64>>, _: &Event<Json<u64>>) -> Result<(), Reject> { Ok(()) }
/// # }
/// # impl CommandHandler for Counter {
/// #     fn commands(on: &mut Commands<Self>) {
/// #         on.command("add", "One more").decide(|_, NoArguments {}| Ok(Json(1).into()));
/// #     }
/// # }
/// foldhost_sdk::export!(Counter: StatelessCommandHandler); // its state is `Json<u64>`
/// ```
///
/// A plugin is of one kind; the fold of a handler is exported with it:
///
/// ```compile_fail
/// # use foldhost_sdk::{CommandHandler, Commands, Event, Json, NoArguments, Reject, View};
/// # struct Counter;
/// # impl View for Counter {
/// #     type State = Json<u64>;
/// #     type Event = Json<u64>;
/// #     fn fold(_: &mut Option<Json<u64>>, _: &Event<Json<u64>>) -> Result<(), Reject> { Ok(()) }
/// # }
/// # impl CommandHandler for Counter {
/// #     fn commands(on: &mut Commands<Self>) {
/// #         on.command("add", "One more").decide(|_, NoArguments {}| Ok(Json(1).into()));
/// #     }
/// # }
/// foldhost_sdk::export!(Counter: View + CommandHandler); // name it `Counter: CommandHandler`
/// ```
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        $crate::__export_plugin!($plugin, View);
    };
    ($plugin:ty : $first:ident $(+ $more:ident)*) => {
        $crate::__export_plugin!($plugin, $first $($more)*);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_plugin {
    ($plugin:ty, $($capability:ident)+) => {
        const _: () = {
            $( $crate::__check_capability!($capability $plugin); )+
        };

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct FoldhostPlugin;

            $( $crate::__export_capability!($capability $plugin, FoldhostPlugin); )+

            impl $crate::__private::abi::describe::Guest for FoldhostPlugin {
                fn describe() -> $crate::__private::abi::describe::Description {
                    $crate::__private::enter();
                    #[allow(unused_mut)]
                    let mut queries = ::std::vec::Vec::new();
                    #[allow(unused_mut)]
                    let mut commands = ::std::vec::Vec::new();
                    $( $crate::__describe_capability!($capability $plugin, queries, commands); )+
                    $crate::__private::abi::describe::Description {
                        queries,
                        commands,
                        schemas: ::std::vec::Vec::new(),
                    }
                }
            }
            $crate::__private::abi::describe::export!(
                FoldhostPlugin with_types_in $crate::__private::abi::describe
            );
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __check_capability {
    (View $plugin:ty) => {
        #[allow(dead_code)]
        const A_PLUGIN_IS_OF_ONE_KIND: () = ();
        const fn view<T: $crate::View>() {}
        view::<$plugin>();
        ::core::assert!(
            !<$plugin as $crate::View>::EMITS,
            "this type is a Republisher: export it as one, `export!(Type: Republisher)`, or nothing \
             that it emits is published"
        );
    };
    (Republisher $plugin:ty) => {
        #[allow(dead_code)]
        const A_PLUGIN_IS_OF_ONE_KIND: () = ();
        const fn republisher<T: $crate::Republisher>() {}
        republisher::<$plugin>();
    };
    (CommandHandler $plugin:ty) => {
        #[allow(dead_code)]
        const A_PLUGIN_IS_OF_ONE_KIND: () = ();
        const fn command_handler<T: $crate::CommandHandler>() {}
        command_handler::<$plugin>();
        ::core::assert!(
            !<<$plugin as $crate::View>::State as $crate::Codec>::IS_NOTHING,
            "this handler has no state: export it as `Type: StatelessCommandHandler`, or the host folds \
             all of its topic for nothing"
        );
    };
    (StatelessCommandHandler $plugin:ty) => {
        #[allow(dead_code)]
        const A_PLUGIN_IS_OF_ONE_KIND: () = ();
        const fn stateless_command_handler<T: $crate::StatelessCommandHandler>() {}
        stateless_command_handler::<$plugin>();
    };
    (EmitState $plugin:ty) => {
        const fn emit_state<T: $crate::EmitState>() {}
        emit_state::<$plugin>();
    };
    (Query $plugin:ty) => {
        const fn query<T: $crate::Query>() {}
        query::<$plugin>();
    };
    (Migrate $plugin:ty) => {
        const fn migrate<T: $crate::Migrate>() {}
        migrate::<$plugin>();
    };
    (Configure $plugin:ty) => {
        const fn configure<T: $crate::Configure>() {}
        configure::<$plugin>();
    };
    (Route $plugin:ty) => {
        const fn route<T: $crate::Route>() {}
        route::<$plugin>();
    };
    ($other:ident $plugin:ty) => {
        compile_error!(concat!(
            "unknown capability `",
            stringify!($other),
            "`: name View, Republisher or CommandHandler, and any of Query, Migrate, Configure, Route \
             and EmitState, as in `export!(Type: View + Query)`"
        ));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_capability {
    (View $plugin:ty, $guest:ident) => {
        impl $crate::__private::abi::fold::Guest for $guest {
            fn fold(
                before: $crate::__private::abi::types::States,
                batch: $crate::__private::abi::types::Events,
            ) -> $crate::__private::abi::types::Folded {
                $crate::__private::enter();
                $crate::__private::fold_batch::<$plugin>(&before, &batch)
            }
        }
        $crate::__private::abi::fold::export!($guest with_types_in $crate::__private::abi::fold);
    };
    (Republisher $plugin:ty, $guest:ident) => {
        impl $crate::__private::abi::react::Guest for $guest {
            fn react(
                before: $crate::__private::abi::types::States,
                batch: $crate::__private::abi::types::Events,
            ) -> (
                $crate::__private::abi::types::Folded,
                $crate::__private::abi::types::Emitted,
            ) {
                $crate::__private::enter();
                $crate::__private::react_batch::<$plugin>(&before, &batch)
            }
        }
        $crate::__private::abi::react::export!($guest with_types_in $crate::__private::abi::react);
    };
    (CommandHandler $plugin:ty, $guest:ident) => {
        $crate::__export_capability!(View $plugin, $guest);
        $crate::__export_capability!(StatelessCommandHandler $plugin, $guest);
    };
    (StatelessCommandHandler $plugin:ty, $guest:ident) => {
        impl $crate::__private::abi::decide::Guest for $guest {
            fn decide(
                key: ::std::vec::Vec<u8>,
                state: ::std::option::Option<::std::vec::Vec<u8>>,
                what: $crate::__private::abi::decide::Command,
            ) -> ::std::result::Result<
                $crate::__private::abi::decide::Decision,
                $crate::__private::abi::decide::Refusal,
            > {
                $crate::__private::enter();
                $crate::__private::decide::<$plugin>(&key, state.as_deref(), what)
            }
        }
        $crate::__private::abi::decide::export!(
            $guest with_types_in $crate::__private::abi::decide
        );
    };
    (EmitState $plugin:ty, $guest:ident) => {
        impl $crate::__private::abi::emit_state::Guest for $guest {
            fn emit_state(
                key: ::std::vec::Vec<u8>,
                state: ::std::vec::Vec<u8>,
            ) -> ::std::vec::Vec<$crate::__private::abi::types::EventOut> {
                $crate::__private::enter();
                $crate::__private::emit_state::<$plugin>(&key, &state)
            }
        }
        $crate::__private::abi::emit_state::export!(
            $guest with_types_in $crate::__private::abi::emit_state
        );
    };
    (Route $plugin:ty, $guest:ident) => {
        impl $crate::__private::abi::route::Guest for $guest {
            fn route(
                batch: $crate::__private::abi::route::Records,
            ) -> $crate::__private::abi::route::Routes {
                $crate::__private::enter();
                $crate::__private::route_batch::<$plugin>(&batch)
            }
        }
        $crate::__private::abi::route::export!($guest with_types_in $crate::__private::abi::route);
    };
    (Query $plugin:ty, $guest:ident) => {
        impl $crate::__private::abi::query::Guest for $guest {
            fn answer(
                key: ::std::vec::Vec<u8>,
                state: ::std::option::Option<::std::vec::Vec<u8>>,
                question: $crate::__private::abi::query::Request,
            ) -> ::std::result::Result<
                $crate::__private::abi::types::Payload,
                $crate::__private::abi::query::QueryError,
            > {
                $crate::__private::enter();
                $crate::__private::answer::<$plugin>(&key, state.as_deref(), question)
            }
        }
        $crate::__private::abi::query::export!($guest with_types_in $crate::__private::abi::query);
    };
    (Migrate $plugin:ty, $guest:ident) => {
        impl $crate::__private::abi::migrate::Guest for $guest {
            fn migrate(
                from_schema: ::std::string::String,
                before: $crate::__private::abi::types::States,
            ) -> ::std::result::Result<
                $crate::__private::abi::types::OptionalColumn,
                ::std::string::String,
            > {
                $crate::__private::enter();
                $crate::__private::migrate::<$plugin>(&from_schema, &before)
            }
        }
        $crate::__private::abi::migrate::export!(
            $guest with_types_in $crate::__private::abi::migrate
        );
    };
    (Configure $plugin:ty, $guest:ident) => {
        impl $crate::__private::abi::configure::Guest for $guest {
            fn configure(
                parameters: ::std::vec::Vec<(::std::string::String, ::std::string::String)>,
            ) -> ::std::result::Result<(), ::std::string::String> {
                $crate::__private::enter();
                $crate::__private::configure::<$plugin>(&parameters)
            }
        }
        $crate::__private::abi::configure::export!(
            $guest with_types_in $crate::__private::abi::configure
        );
    };
    ($other:ident $plugin:ty, $guest:ident) => {};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __describe_capability {
    (Query $plugin:ty, $queries:ident, $commands:ident) => {
        $queries = $crate::__private::describe::<$plugin>();
    };
    (CommandHandler $plugin:ty, $queries:ident, $commands:ident) => {
        $commands = $crate::__private::describe_commands::<$plugin>();
    };
    (StatelessCommandHandler $plugin:ty, $queries:ident, $commands:ident) => {
        $commands = $crate::__private::describe_commands::<$plugin>();
    };
    ($other:ident $plugin:ty, $queries:ident, $commands:ident) => {};
}
