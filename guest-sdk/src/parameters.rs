//! [`Configure`]: parameters of a deployment, the export `configure`.
//!
//! Implemented by plugins that have parameters; set by the host once per instance, and by the test
//! driver before each call. Invariant: parameters are part of a plugin's input: they never change in
//! an instance, so a fold that reads them stays pure.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

use serde::de::DeserializeOwned;

use crate::View;
use crate::query::arguments::{self, ArgumentError};

/// A view with parameters, set with `foldhost plugin deploy --set name=value`.
///
/// Name it in the export: `foldhost_sdk::export!(Alarm: View + Configure)`.
///
/// ```
/// use foldhost_sdk::testing::{Driver, Record};
/// use foldhost_sdk::{Configure, Event, Json, Reject, View};
///
/// /// Counts the readings above a threshold.
/// struct Alarm;
///
/// #[derive(serde::Deserialize)]
/// struct Parameters {
///     #[serde(default = "hundred")]
///     threshold: u32,
/// }
/// fn hundred() -> u32 { 100 }
///
/// impl Configure for Alarm {
///     type Parameters = Parameters;
/// }
///
/// impl View for Alarm {
///     type State = Json<u32>;
///     type Event = Json<u32>;
///     fn fold(state: &mut Option<Json<u32>>, event: &Event<Json<u32>>) -> Result<(), Reject> {
///         if event.required()?.0 > Self::parameters().threshold {
///             state.get_or_insert_default().0 += 1;
///         }
///         Ok(())
///     }
/// }
/// foldhost_sdk::export!(Alarm: View + Configure);
///
/// let mut driver = Driver::<Alarm>::configured(&[("threshold", "7")]).unwrap();
/// driver.send(Record::new("k", &Json(8))).unwrap();
/// assert_eq!(driver.state("k"), Some(Json(1)));
///
/// let error = Driver::<Alarm>::configured(&[("treshold", "7")]).unwrap_err();
/// assert_eq!(error, "`treshold`: no such name; there is `threshold`");
/// ```
pub trait Configure: View {
    /// What the parameters are read as: a struct with a field per parameter, by serde's rules for
    /// query arguments (see [`Query`](crate::Query)). Give optional ones a `#[serde(default)]`.
    type Parameters: DeserializeOwned + 'static;

    /// Checks what types alone cannot say.
    ///
    /// # Errors
    /// A sentence that names the parameter and says what would be right. At deploy time it refuses
    /// the deployment.
    fn check(_parameters: &Self::Parameters) -> Result<(), String> {
        Ok(())
    }

    /// The parameters of this deployment.
    ///
    /// # Panics
    /// The plugin was not configured: its `export!` does not name `Configure`, or a test made a
    /// driver of it with `Driver::new`.
    fn parameters() -> Rc<Self::Parameters> {
        let current = CURRENT.with_borrow(Clone::clone);
        let current = current.and_then(|parameters| parameters.downcast().ok());
        current.expect("no parameters: export `Configure`, test with `Driver::configured`")
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Parameters>> = const { RefCell::new(None) };
}

/// The parameters of some view, whatever their type.
pub(crate) type Parameters = Rc<dyn Any>;

/// Reads and checks parameters.
pub(crate) fn read<V: Configure>(parameters: &[(String, String)]) -> Result<Parameters, String> {
    let parameters: V::Parameters = arguments::read(parameters).map_err(|error| match error {
        ArgumentError { name, expected } if name.is_empty() => expected,
        ArgumentError { name, expected } => format!("`{name}`: {expected}"),
    })?;
    V::check(&parameters)?;
    Ok(Rc::new(parameters))
}

/// Makes `parameters` those that views on this thread see, and gives back the ones before.
pub(crate) fn install(parameters: Option<Parameters>) -> Option<Parameters> {
    CURRENT.replace(parameters)
}

/// The export `configure`.
///
/// # Errors
/// A sentence that names the parameter and says what would be right.
pub fn configure<V: Configure>(parameters: &[(String, String)]) -> Result<(), String> {
    install(Some(read::<V>(parameters)?));
    Ok(())
}
