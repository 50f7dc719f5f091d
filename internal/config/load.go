package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Redacted stands wherever a secret would be shown.
const Redacted = "[redacted]"

// FileVariable names the configuration file in the environment; the flag is
// --config.
const FileVariable = Prefix + "CONFIG"

// Refusal is one reason not to start: a setting and why its value is not
// acceptable. Its text is one line that names the variable and the value, a
// secret redacted. A program that meets one exits with code 2.
type Refusal struct {
	Variable string
	Value    string // redacted where secret
	Reason   string
}

// Error gives the line.
func (r *Refusal) Error() string {
	if r.Value == "" {
		return r.Variable + " " + r.Reason
	}
	return fmt.Sprintf("%s=%q %s", r.Variable, r.Value, r.Reason)
}

// Refusals returns every refusal in err, in the order they were found.
func Refusals(err error) []*Refusal {
	var list []*Refusal
	var walk func(error)
	walk = func(err error) {
		switch e := err.(type) {
		case nil:
		case *Refusal:
			list = append(list, e)
		case interface{ Unwrap() []error }:
			for _, sub := range e.Unwrap() {
				walk(sub)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		}
	}
	walk(err)
	return list
}

// Sources is where [Load] reads settings from.
type Sources struct {
	// Flags holds the flags that were given, by flag name without dashes before
	// it.
	Flags map[string]string
	// Environ is the environment, as os.Environ gives it.
	Environ []string
	// File is the path of the YAML file; empty takes FF_CONFIG, or none.
	File string
	// ReadFile reads a file; os.ReadFile when nil.
	ReadFile func(string) ([]byte, error)
}

// Loaded is what [Load] found.
type Loaded struct {
	*Config
	// Warnings are lines for the operator: unknown variables, above all.
	Warnings []string
}

// source says where a value came from.
type source struct {
	text   string // for a person: "flag --lanes", "environment", …
	file   string // the file a secret was read from
	value  string
	viaEnv bool
}

// Load reads the settings from flags, the environment, the file and the
// defaults, in this order of precedence, and validates them. The error joins one
// *[Refusal] for each setting at fault.
func Load(src Sources) (*Loaded, error) {
	l := loader{src: src, given: map[string]source{}, files: map[string]source{}, rows: table()}
	if l.src.ReadFile == nil {
		l.src.ReadFile = os.ReadFile
	}
	l.readFileLayer()
	l.readEnvironment()
	l.readFlags()
	l.readSecretFiles()
	c := l.apply()
	if len(l.refused) == 0 {
		l.refuse(c.check()...)
	}
	out := &Loaded{Config: c, Warnings: l.warnings}
	return out, errors.Join(l.refused...)
}

type loader struct {
	src      Sources
	rows     []Setting
	given    map[string]source // by variable
	files    map[string]source // <NAME>_FILE of secrets, by variable of the secret
	refused  []error
	warnings []string
}

func (l *loader) refuse(errs ...error) { l.refused = append(l.refused, errs...) }

func (l *loader) row(match func(Setting) bool) (Setting, bool) {
	i := slices.IndexFunc(l.rows, match)
	if i < 0 {
		return Setting{}, false
	}
	return l.rows[i], true
}

// put records a value; a later call wins over an earlier one.
func (l *loader) put(s Setting, secretFile bool, from source) {
	if secretFile {
		l.files[s.Variable()] = from
		return
	}
	l.given[s.Variable()] = from
}

func (l *loader) readEnvironment() {
	names := l.names(func(s Setting) string { return s.Variable() }, "_FILE")
	for _, entry := range l.src.Environ {
		name, value, ok := strings.Cut(entry, "=")
		if !ok || !strings.HasPrefix(name, Prefix) || name == FileVariable {
			continue
		}
		s, secretFile, ok := l.find(name, func(s Setting) string { return s.Variable() }, "_FILE")
		if !ok {
			l.warnings = append(l.warnings, unknownLine("variable "+name, nearest(name, names)))
			continue
		}
		l.put(s, secretFile, source{text: "environment", value: value, viaEnv: true})
	}
}

func (l *loader) readFlags() {
	for name, value := range l.src.Flags {
		s, secretFile, ok := l.find(name, Setting.Flag, "-file")
		if !ok {
			continue // a flag of the command, not a setting
		}
		l.put(s, secretFile, source{text: "flag --" + name, value: value})
	}
}

// find looks a name up among the settings and the file forms of secrets.
func (l *loader) find(name string, spelled func(Setting) string, suffix string) (s Setting, secretFile, ok bool) {
	if s, ok = l.row(func(s Setting) bool { return spelled(s) == name }); ok {
		return s, false, true
	}
	base, isFile := strings.CutSuffix(name, suffix)
	if !isFile {
		return Setting{}, false, false
	}
	s, ok = l.row(func(s Setting) bool { return s.Secret && spelled(s) == base })
	return s, true, ok
}

func (l *loader) names(spelled func(Setting) string, suffix string) []string {
	var names []string
	for _, s := range l.rows {
		names = append(names, spelled(s))
		if s.Secret {
			names = append(names, spelled(s)+suffix)
		}
	}
	return names
}

func unknownLine(what, suggestion string) string {
	if suggestion == "" {
		return "unknown " + what
	}
	return fmt.Sprintf("unknown %s; did you mean %s?", what, suggestion)
}

// readFileLayer reads the YAML file: one mapping from the settings' names in
// lower snake case to a scalar or, for lists, a sequence.
func (l *loader) readFileLayer() {
	path := l.src.File
	if path == "" {
		path, _ = lookup(l.src.Environ, FileVariable)
	}
	if path == "" {
		return
	}
	raw, err := l.src.ReadFile(path)
	if err != nil {
		l.refuse(&Refusal{Variable: FileVariable, Value: path, Reason: "can't be read: " + plainFileError(err)})
		return
	}
	var doc map[string]yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		l.refuse(&Refusal{Variable: FileVariable, Value: path, Reason: "is no YAML mapping: " + oneLine(err.Error())})
		return
	}
	keys := l.names(Setting.Key, "_file")
	for name, node := range doc {
		key := strings.ReplaceAll(name, "-", "_")
		s, secretFile, ok := l.find(key, Setting.Key, "_file")
		if !ok {
			l.refuse(&Refusal{Variable: FileVariable, Value: path, Reason: "has an " + unknownLine("key "+name, nearest(key, keys))})
			continue
		}
		text, err := yamlText(node)
		if err != nil {
			l.refuse(&Refusal{Variable: FileVariable, Value: path, Reason: name + " " + err.Error()})
			continue
		}
		l.put(s, secretFile, source{text: "file " + path, value: text})
	}
}

func yamlText(node yaml.Node) (string, error) {
	switch node.Kind {
	case yaml.ScalarNode:
		if node.Tag == "!!null" {
			return "", nil
		}
		return node.Value, nil
	case yaml.SequenceNode:
		parts := make([]string, 0, len(node.Content))
		for _, item := range node.Content {
			if item.Kind != yaml.ScalarNode {
				return "", badValue("must be a list of plain values")
			}
			parts = append(parts, item.Value)
		}
		return strings.Join(parts, ","), nil
	}
	return "", badValue("must be a plain value or a list")
}

// readSecretFiles replaces every <NAME>_FILE by the content of the file, a
// trailing newline removed.
func (l *loader) readSecretFiles() {
	for _, s := range l.rows {
		from, ok := l.files[s.Variable()]
		if !ok {
			continue
		}
		variable := s.Variable() + "_FILE"
		if _, both := l.given[s.Variable()]; both {
			l.refuse(&Refusal{Variable: variable, Value: from.value, Reason: "is given beside " + s.Variable() + "; give one of them"})
			continue
		}
		raw, err := l.src.ReadFile(from.value)
		if err != nil {
			l.refuse(&Refusal{Variable: variable, Value: from.value, Reason: "can't be read: " + plainFileError(err)})
			continue
		}
		text := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
		from.file, from.value = from.value, text
		l.given[s.Variable()] = from
	}
}

// apply hands every value, or default, to its setter.
func (l *loader) apply() *Config {
	c := &Config{given: l.given, Intervals: Duties()}
	for _, s := range l.rows {
		from, given := l.given[s.Variable()]
		text := s.Default
		if given {
			text = from.value
		}
		if strings.TrimSpace(text) == "" && !s.emptyGiven {
			if given && s.emptyRefused {
				l.refuse(&Refusal{Variable: variableOf(s, from), Reason: "is set but empty"})
				continue
			}
			if s.Default == "" {
				delete(l.given, s.Variable())
				continue
			}
		}
		if err := s.set(c, text); err != nil {
			l.refuse(&Refusal{Variable: variableOf(s, from), Value: shown(s, from, text), Reason: err.Error()})
		}
	}
	return c
}

// variableOf names the variable a person has to look at.
func variableOf(s Setting, from source) string {
	if from.file != "" {
		return s.Variable() + "_FILE"
	}
	return s.Variable()
}

// shown is the value as a refusal may show it.
func shown(s Setting, from source, text string) string {
	if from.file != "" {
		return from.file
	}
	if s.Secret {
		return Redacted
	}
	return redactURL(text)
}

// check holds the settings against each other.
func (c *Config) check() []error {
	var errs []error
	refuse := func(variable, value, format string, args ...any) {
		errs = append(errs, &Refusal{Variable: variable, Value: value, Reason: fmt.Sprintf(format, args...)})
	}
	if c.Backend.Kind == PlaceRemote {
		refuse("FF_BACKEND", c.Backend.String(), "is a server, not a store; a server opens %s", Available)
	}
	c.settleDataDir(refuse)
	if c.Backend.Kind == PlaceValkey {
		if _, err := c.StoreConfig(); err != nil {
			errs = append(errs, err)
		}
	}
	for _, l := range []struct{ variable, addr string }{{"FF_LISTEN_ADDR", c.ListenAddr}, {"FF_METRICS_ADDR", c.MetricsAddr}} {
		if l.variable == "FF_METRICS_ADDR" && !c.MetricsAuth {
			continue // carries nothing secret: open by design
		}
		if l.addr != "" && !loopback(l.addr) && !c.Authenticated() && !c.AllowUnauthenticated {
			refuse(l.variable, l.addr, "listens beyond loopback with authentication off: set FF_API_TOKEN or FF_API_TOKENS_FILE, or FF_ALLOW_UNAUTHENTICATED=true")
		}
	}
	if c.MetricsAddr != "" && c.MetricsAddr == c.ListenAddr && !strings.HasSuffix(c.ListenAddr, ":0") {
		refuse("FF_METRICS_ADDR", c.MetricsAddr, "is the API listener; leave it unset to serve /metrics there")
	}
	c.checkCallbacks(refuse)
	if c.MetricsAuth && !c.Authenticated() {
		refuse("FF_METRICS_AUTH", "true", "needs authentication: set FF_API_TOKEN or FF_API_TOKENS_FILE")
	}
	switch {
	case c.TLSCertFile != "" && c.TLSKeyFile == "":
		refuse("FF_TLS_CERT_FILE", c.TLSCertFile, "is given without FF_TLS_KEY_FILE; give both or neither")
	case c.TLSKeyFile != "" && c.TLSCertFile == "":
		refuse("FF_TLS_KEY_FILE", c.TLSKeyFile, "is given without FF_TLS_CERT_FILE; give both or neither")
	case c.TLSClientCAFile != "" && c.TLSCertFile == "":
		refuse("FF_TLS_CLIENT_CA_FILE", c.TLSClientCAFile, "needs FF_TLS_CERT_FILE and FF_TLS_KEY_FILE")
	}
	if c.ShutdownDelay >= c.ShutdownTimeout {
		refuse("FF_SHUTDOWN_DELAY", c.ShutdownDelay.String(), "leaves no time within FF_SHUTDOWN_TIMEOUT %s", c.ShutdownTimeout)
	}
	return errs
}

// checkCallbacks holds the callbacks' listener against the others. It may be
// reached from anywhere: the waitpoint's token is its authentication.
func (c *Config) checkCallbacks(refuse func(variable, value, format string, args ...any)) {
	addr := c.CallbackAddr
	switch fixed := !strings.HasSuffix(addr, ":0"); {
	case addr == "":
	case !c.Callbacks:
		refuse("FF_CALLBACK_ADDR", addr, "contradicts FF_CALLBACKS=false; give one of them")
	case fixed && addr == c.ListenAddr:
		refuse("FF_CALLBACK_ADDR", addr, "is the API listener; leave it unset to serve callbacks there")
	case fixed && addr == c.MetricsAddr:
		refuse("FF_CALLBACK_ADDR", addr, "is the listener of FF_METRICS_ADDR; give each its own")
	}
}

// settleDataDir brings FF_BACKEND and FF_DATA_DIR together: a file named by URL
// makes its directory the data directory.
func (c *Config) settleDataDir(refuse func(variable, value, format string, args ...any)) {
	switch {
	case c.Backend.Kind == PlaceMemory, c.Backend.Kind == PlaceValkey:
		c.DataDir = ""
	case c.Backend.Path != "":
		dir := filepath.Dir(c.Backend.Path)
		if c.Given("FF_DATA_DIR") && filepath.Clean(c.DataDir) != dir {
			refuse("FF_DATA_DIR", c.DataDir, "contradicts FF_BACKEND=%q, whose directory is %s", c.Backend.String(), dir)
		}
		c.DataDir = dir
	}
}

// StoreFile is the name of the embedded store's file in the data directory.
const StoreFile = "flowfabric.db"

// StorePath returns the file of the embedded store, "" for every other store.
func (c *Config) StorePath() string {
	if c.Backend.Kind != PlaceEmbedded {
		return ""
	}
	if c.Backend.Path != "" {
		return c.Backend.Path
	}
	return filepath.Join(c.DataDir, StoreFile)
}

// Effective is one line of the effective settings, as people may see it.
type Effective struct {
	Setting Setting `json:"-"`
	// Variable is the environment variable's name.
	Variable string `json:"variable"`
	Value    string `json:"value"` // redacted where secret
	// Source is default, environment, the flag, or the file.
	Source string `json:"source"`
}

// Effective returns every setting with its value, secrets redacted.
func (c *Config) Effective() []Effective {
	rows := table()
	out := make([]Effective, 0, len(rows))
	for _, s := range rows {
		e := Effective{Setting: s, Variable: s.Variable(), Value: s.Default, Source: "default"}
		if from, ok := c.given[s.Variable()]; ok {
			e.Value, e.Source = redactURL(from.value), from.text
			if from.file != "" {
				e.Source = "file " + from.file
			}
		}
		if s.Secret && e.Source != "default" {
			e.Value = Redacted
		}
		if s.Name == "DATA_DIR" {
			e.Value = c.DataDir
		}
		out = append(out, e)
	}
	return out
}

func lookup(environ []string, name string) (string, bool) {
	value, found := "", false
	for _, entry := range environ {
		if n, v, ok := strings.Cut(entry, "="); ok && n == name {
			value, found = v, true
		}
	}
	return value, found
}

// plainFileError drops the operation and the path, which the line names anyway.
func plainFileError(err error) string {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
