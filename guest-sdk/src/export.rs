//! [`export!`](crate::export): makes a crate a plugin.
//!
//! Invoked once by every plugin. Invariant: the component exports exactly the capabilities that are
//! named, and natively (in tests) the macro only checks that the traits are there.

/// Makes this crate a foldhost plugin: `export!(Type)` for a [`View`](crate::View) without queries,
/// `export!(Type: Republisher)` for a [`Republisher`](crate::Republisher), and with either any of
/// [`Query`](crate::Query), [`Migrate`](crate::Migrate), [`Configure`](crate::Configure) and
/// [`Route`](crate::Route), as in `export!(Type: View + Query)`. Once per crate; the crate is a `cdylib`.
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
                    $( $crate::__describe_capability!($capability $plugin, queries); )+
                    $crate::__private::abi::describe::Description {
                        queries,
                        commands: ::std::vec::Vec::new(),
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
        const fn view<T: $crate::View>() {}
        view::<$plugin>();
        ::core::assert!(
            !<$plugin as $crate::View>::EMITS,
            "this type is a Republisher: export it as one, `export!(Type: Republisher)`, or nothing \
             that it emits is published"
        );
    };
    (Republisher $plugin:ty) => {
        const fn republisher<T: $crate::Republisher>() {}
        republisher::<$plugin>();
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
            "`: name View or Republisher, and any of Query, Migrate, Configure and Route, as in \
             `export!(Type: View + Query)`"
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
    (Query $plugin:ty, $queries:ident) => {
        $queries = $crate::__private::describe::<$plugin>();
    };
    ($other:ident $plugin:ty, $queries:ident) => {};
}
