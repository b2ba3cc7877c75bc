//! [`Inputs`]: what the records of a plugin's input topics are decoded as.
//!
//! Called by the glue of `fold`, `react` and `route`, once per record, and by the test driver to write
//! records. Invariant: a type that is a [`Codec`] is the same on every input, so a plugin with one
//! input never hears of this.

use crate::{Codec, CodecError};

/// The events of all inputs of a plugin: what [`View::Event`](crate::View::Event) can be.
///
/// Every [`Codec`] is one: all inputs are then written alike. A plugin whose inputs differ takes an
/// enum with a variant per input, which [`inputs!`](crate::inputs) makes.
pub trait Inputs: Sized {
    /// Reads the value of a record of the topic with index `input` in the manifest's `inputs`, from 0.
    ///
    /// # Errors
    /// The bytes are no event of that input, or there is no such input. The record is then rejected
    /// (`bad-event`).
    fn decode_from(input: usize, bytes: &[u8]) -> Result<Self, CodecError>;

    /// Appends the value to `out`, as a producer of its input writes it. Tests use it
    /// ([`Record::new`](crate::testing::Record::new)).
    fn encode_value(&self, out: &mut Vec<u8>);

    /// Index in the manifest's `inputs` of the topic to which this event belongs; 0 where all inputs
    /// are alike.
    fn input(&self) -> usize;
}

impl<C: Codec> Inputs for C {
    fn decode_from(_input: usize, bytes: &[u8]) -> Result<Self, CodecError> {
        C::decode(bytes)
    }

    fn encode_value(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }

    fn input(&self) -> usize {
        0
    }
}

/// Makes an enum of the events of several inputs, each with a [`Codec`] of its own: one variant per
/// topic, **in the order of `inputs` in `plugin.toml`**. It implements [`Inputs`](trait@crate::Inputs).
///
/// ```
/// use foldhost_sdk::testing::{Driver, Record};
/// use foldhost_sdk::{Event, Json, Raw, Reject, View};
///
/// foldhost_sdk::inputs! {
///     /// `inputs = ["deposits", "names"]`; both are keyed by account.
///     #[derive(Debug)]
///     pub enum Change {
///         /// Cents.
///         Deposit(Json<i64>),
///         /// Whose account it is, as plain text.
///         Name(Raw),
///     }
/// }
///
/// struct Accounts;
/// impl View for Accounts {
///     type State = Json<(String, i64)>;
///     type Event = Change;
///     fn fold(state: &mut Option<Self::State>, event: &Event<Change>) -> Result<(), Reject> {
///         let account = state.get_or_insert_default();
///         match event.required()? {
///             Change::Deposit(cents) => account.0.1 += cents.0,
///             Change::Name(name) => account.0.0 = String::from_utf8_lossy(&name.0).into_owned(),
///         }
///         Ok(())
///     }
/// }
///
/// let mut driver = Driver::<Accounts>::new();
/// driver.send(Record::new("7", &Change::Deposit(Json(5)))).unwrap(); // from input 0
/// driver.send(Record::raw("7", "Ann").input(1)).unwrap();            // the same, by hand
/// assert_eq!(driver.state("7"), Some(Json(("Ann".to_owned(), 5))));
///
/// let reject = driver.send(Record::raw("7", "Ann").input(2)).unwrap_err();
/// assert_eq!(reject.to_string(), "bad-event: the record is from input 2 (from 0), and this code knows 2 inputs");
/// ```
///
/// A tombstone has no value, so it is no variant: `event.value()` is `None`, and
/// [`Event::input`](crate::Event::input) says of which topic.
#[macro_export]
macro_rules! inputs {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $name:ident {
            $( $(#[$variant_meta:meta])* $variant:ident($codec:ty) ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        $visibility enum $name {
            $( $(#[$variant_meta])* $variant($codec) ),+
        }

        const _: () = {
            enum Index {
                $( $variant ),+
            }
            const KNOWN: usize = [$( Index::$variant as usize ),+].len();

            impl $crate::Inputs for $name {
                fn decode_from(
                    input: usize,
                    bytes: &[u8],
                ) -> ::std::result::Result<Self, $crate::CodecError> {
                    $(
                        if input == Index::$variant as usize {
                            let event = <$codec as $crate::Codec>::decode(bytes)?;
                            return ::std::result::Result::Ok($name::$variant(event));
                        }
                    )+
                    ::std::result::Result::Err($crate::CodecError::new(::std::format_args!(
                        "the record is from input {input} (from 0), and this code knows {KNOWN} inputs"
                    )))
                }

                fn encode_value(&self, out: &mut ::std::vec::Vec<u8>) {
                    match self {
                        $( $name::$variant(event) => $crate::Codec::encode(event, out) ),+
                    }
                }

                fn input(&self) -> usize {
                    match self {
                        $( $name::$variant(_) => Index::$variant as usize ),+
                    }
                }
            }
        };
    };
}
