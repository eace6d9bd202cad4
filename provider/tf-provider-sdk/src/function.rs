//! Functions: their signatures, their errors, and the trait.
//!
//! A function is pure and has no client: Terraform calls it before the provider is configured, and as
//! often as it likes.

use crate::diagnostic::Diagnostic;
use crate::schema::validate::Validator;
use crate::value::{ConvertError, FromValue, Type, Value};

/// One parameter of a [`Function`].
#[derive(Debug, Clone)]
pub struct FunctionParameter {
    /// Its name, for the documentation.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// What it is, in markdown.
    pub description: String,
    /// Whether null may be passed; else Terraform refuses it.
    pub allow_null: bool,
    /// What arguments must be, checked before the function is called.
    pub validators: Vec<Validator>,
}

impl FunctionParameter {
    /// A parameter that takes no null.
    pub fn new(name: impl Into<String>, ty: Type, description: impl Into<String>) -> Self {
        Self { name: name.into(), ty, description: description.into(), allow_null: false, validators: Vec::new() }
    }

    /// Takes null, too.
    #[must_use]
    pub fn nullable(mut self) -> Self {
        self.allow_null = true;
        self
    }

    /// Adds a validator.
    #[must_use]
    pub fn validate(mut self, validator: Validator) -> Self {
        self.validators.push(validator);
        self
    }
}

/// A function's signature. Calls with unknown arguments are Terraform's own business: the function
/// only sees known values.
#[derive(Debug, Clone)]
pub struct FunctionDefinition {
    /// One line.
    pub summary: String,
    /// What it does, in markdown.
    pub description: String,
    /// The parameters, in order.
    pub parameters: Vec<FunctionParameter>,
    /// Any number of further arguments, all of this kind.
    pub variadic: Option<FunctionParameter>,
    /// The result's type.
    pub returns: Type,
    /// Set if the function is deprecated: what to use instead.
    pub deprecated: Option<String>,
}

impl FunctionDefinition {
    /// A signature without parameters.
    pub fn new(summary: impl Into<String>, returns: Type) -> Self {
        Self {
            summary: summary.into(),
            description: String::new(),
            parameters: Vec::new(),
            variadic: None,
            returns,
            deprecated: None,
        }
    }

    /// Adds a parameter.
    #[must_use]
    pub fn parameter(mut self, parameter: FunctionParameter) -> Self {
        self.parameters.push(parameter);
        self
    }

    /// Takes any number of further arguments of this kind.
    #[must_use]
    pub fn variadic(mut self, parameter: FunctionParameter) -> Self {
        self.variadic = Some(parameter);
        self
    }

    /// Terraform warns whoever calls it, with this message.
    #[must_use]
    pub fn deprecated(mut self, message: impl Into<String>) -> Self {
        self.deprecated = Some(message.into());
        self
    }

    /// The parameter that argument `index` belongs to.
    pub(crate) fn parameter_at(&self, index: usize) -> Option<&FunctionParameter> {
        self.parameters.get(index).or(self.variadic.as_ref())
    }

    /// Sets the description, in markdown.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }
}

/// Why a function call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionError {
    /// A sentence for a person.
    pub message: String,
    /// The argument to blame, from 0.
    pub argument: Option<usize>,
}

impl FunctionError {
    /// An error about the call as a whole.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), argument: None }
    }

    /// An error about one argument, counted from 0.
    pub fn argument(index: usize, message: impl Into<String>) -> Self {
        Self { message: message.into(), argument: Some(index) }
    }
}

/// One argument as `T`.
///
/// # Errors
/// It is of another type or out of range; the argument is to blame.
pub fn argument<T: FromValue>(arguments: &[Value], index: usize) -> std::result::Result<T, FunctionError> {
    let value = arguments.get(index).unwrap_or(&Value::Null);
    T::from_value(value).map_err(|error| FunctionError::argument(index, explained(&error)))
}

/// The arguments from `first` on as `T`: the variadic ones.
///
/// # Errors
/// As [`argument`].
pub fn arguments_from<T: FromValue>(arguments: &[Value], first: usize) -> std::result::Result<Vec<T>, FunctionError> {
    (first..arguments.len()).map(|index| argument(arguments, index)).collect()
}

fn explained(error: &ConvertError) -> String {
    if error.path.is_root() { error.message.clone() } else { error.to_string() }
}

/// A function: pure, without a client.
///
/// ```
/// use tf_provider_sdk::{
///     Function, FunctionDefinition, FunctionError, FunctionParameter, IntoValue, Type, Value, argument, arguments_from,
///     validate,
/// };
///
/// /// `provider::example::spread(24, 3, 9)` is `[3, 9]` within 24.
/// struct Clamp;
///
/// impl Function for Clamp {
///     fn name(&self) -> &str {
///         "clamp"
///     }
///
///     fn definition(&self) -> FunctionDefinition {
///         FunctionDefinition::new("Cuts numbers off at a limit", Type::list(Type::Number))
///             .parameter(FunctionParameter::new("limit", Type::Number, "The limit.").validate(validate::at_least(0)))
///             .variadic(FunctionParameter::new("numbers", Type::Number, "The numbers."))
///     }
///
///     fn call(&self, arguments: &[Value]) -> Result<Value, FunctionError> {
///         let limit: i64 = argument(arguments, 0)?;
///         let numbers: Vec<i64> = arguments_from(arguments, 1)?;
///         Ok(numbers.into_iter().map(|number| number.min(limit)).collect::<Vec<_>>().into_value())
///     }
/// }
///
/// let result = Clamp.call(&[24_i64.into_value(), 3_i64.into_value(), 90_i64.into_value()]);
/// assert_eq!(result, Ok(vec![3_i64, 24].into_value()));
/// ```
pub trait Function: Send + Sync + 'static {
    /// Its name, without a prefix.
    fn name(&self) -> &str;

    /// Its signature.
    fn definition(&self) -> FunctionDefinition;

    /// Calls it; variadic arguments follow the others.
    ///
    /// # Errors
    /// With the argument to blame.
    fn call(&self, arguments: &[Value]) -> std::result::Result<Value, FunctionError>;
}

impl From<FunctionError> for Diagnostic {
    fn from(error: FunctionError) -> Self {
        Diagnostic::error("Function call failed", error.message)
    }
}
