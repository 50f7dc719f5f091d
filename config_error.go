package flowfabric

// ConfigError reports a configuration that cannot work, found before any call
// is made. It is an invalid_input: errors.Is(err, ErrInvalidInput) and
// errors.Is(err, ClassInvalidInput) hold, and errors.As finds an [*Error] in it.
// (Specification 08, section 5.2.)
type ConfigError struct {
	// Context says what was being configured: "worker_config", "handler", ….
	Context string
	// Field is the offending field in snake_case.
	Field string
	// Message says what is wrong with it. It never holds a secret.
	Message string
	// Err is the more precise error behind it, such as invalid_capabilities; nil
	// when there is none.
	Err *Error
}

// Error gives the context, the field and the message.
func (e *ConfigError) Error() string { return e.Context + ": " + e.Field + ": " + e.Message }

// Unwrap returns the precise error, or an invalid_input that names the field.
func (e *ConfigError) Unwrap() error {
	if e.Err != nil {
		return e.Err
	}
	return InvalidInput(e.Field, "%s", e.Message)
}

// Is reports whether target is invalid_input or its class.
func (e *ConfigError) Is(target error) bool {
	switch t := target.(type) {
	case *Error:
		return t.Code == CodeInvalidInput
	case Class:
		return t == ClassInvalidInput
	}
	return false
}

// configError makes a ConfigError out of a validation error.
func configError(context, field string, err error) *ConfigError {
	e := &ConfigError{Context: context, Field: field, Message: err.Error()}
	if cause := AsError(err); cause != nil {
		e.Err, e.Message = cause, cause.Message
	}
	return e
}
