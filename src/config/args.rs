//! From arguments and environment to one value per flag, as Go's `flag` package and etcd's
//! environment rules read them.

use std::ffi::OsString;

use super::flags::{self, Effect, FLAGS, Spelling};
use super::value::{Kind, Value};
use super::{UsageError, err};

/// Where a value comes from, which is how messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    /// The name as it was written, without dashes.
    Flag(String),
    Env(String),
    /// The key, and the file.
    File(String),
}

#[derive(Clone, Debug)]
struct Given {
    source: Source,
    text: String,
    value: Value,
}

/// One value for each flag of the table.
pub struct Settings {
    given: Vec<Given>,
    pub warnings: Vec<String>,
    /// They come from a file.
    pub is_file: bool,
}

/// What the arguments alone say; the environment is only looked at for `Run`.
pub enum Asked {
    Run(Settings),
    /// All settings are in this file.
    File(String),
    Version,
    Help,
}

/// The environment variables that begin with `ETCD_` and are no flags, which etcd knows as well.
const OTHER_VARIABLES: &[&str] = &["ETCD_UNSUPPORTED_ARCH", "ETCD_VERSION"];

pub fn read(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Asked, UsageError> {
    let mut settings = Settings::defaults()?;
    let args = args
        .into_iter()
        .map(|arg| arg.into_string().map_err(|arg| err(format!("argument {arg:?} is not UTF-8"))))
        .collect::<Result<Vec<_>, _>>()?;
    if !settings.read_args(args)? {
        return Ok(Asked::Help);
    }
    if settings.bool("version") {
        return Ok(Asked::Version);
    }
    let env: Vec<_> = env.into_iter().collect();
    let named = env.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE");
    let named = named.map(|(_, path)| path.to_string_lossy().into_owned());
    let path = match settings.text("config-file") {
        "" => named.unwrap_or_default(),
        path => path.to_owned(),
    };
    if !path.is_empty() {
        return Ok(Asked::File(path));
    }
    settings.read_env(env)?;
    settings.check_effects()?;
    Ok(Asked::Run(settings))
}

impl Settings {
    pub fn defaults() -> Result<Self, UsageError> {
        let given = FLAGS.iter().map(|flag| {
            let text = flag.default.to_owned();
            let value = flag.kind.read(&text).map_err(|rule| {
                err(format!("the default of --{} is not a value of it: {rule}", flag.name))
            })?;
            Ok(Given { source: Source::Default, text, value })
        });
        Ok(Self {
            given: given.collect::<Result<_, UsageError>>()?,
            warnings: Vec::new(),
            is_file: false,
        })
    }

    /// False if help was asked for.
    fn read_args(&mut self, args: Vec<String>) -> Result<bool, UsageError> {
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let body = match arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) {
                // What follows "--" is no flag, and etcd takes nothing else.
                Some("") if arg == "--" => match args.next() {
                    Some(rest) => return Err(err(format!("{rest:?} is not a valid flag"))),
                    None => break,
                },
                Some(body) if !body.is_empty() => body,
                _ => return Err(err(format!("{arg:?} is not a valid flag"))),
            };
            if body.starts_with(['-', '=']) {
                return Err(err(format!("bad flag syntax: {arg}")));
            }
            let (name, text) = match body.split_once('=') {
                Some((name, text)) => (name, Some(text.to_owned())),
                None => (body, None),
            };
            let Some((at, spelling)) = flags::find(name) else {
                if matches!(name, "h" | "help") {
                    return Ok(false);
                }
                return Err(err(format!("flag provided but not defined: -{name}")));
            };
            let text = match text {
                Some(text) => text,
                None if spelling == Spelling::Gate || kind(at) == Kind::Bool => "true".to_owned(),
                None => {
                    args.next().ok_or_else(|| err(format!("flag needs an argument: -{name}")))?
                }
            };
            self.set(at, spelling, Source::Flag(name.to_owned()), text)?;
        }
        Ok(true)
    }

    fn read_env(
        &mut self,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), UsageError> {
        let mut env: Vec<_> = env
            .into_iter()
            .filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("ETCD_")))
            .collect();
        // The same messages in the same order, whatever the order of the environment.
        env.sort();
        for (name, text) in env {
            let name = name.to_string_lossy().into_owned();
            let text =
                text.into_string().map_err(|text| err(format!("{name}={text:?} is not UTF-8")))?;
            let flag = name["ETCD_".len()..].to_ascii_lowercase().replace('_', "-");
            let found = flags::find(&flag).filter(|_| flags::env_name(&flag) == name);
            if text.is_empty() || OTHER_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let Some((at, spelling)) = found else {
                self.warnings.push(format!("unrecognized environment variable {name}"));
                continue;
            };
            if let Some(Given { source: Source::Flag(flag), .. }) = self.given.get(at) {
                self.warnings.push(format!("--{flag} on the command line wins over {name}"));
                continue;
            }
            self.set(at, spelling, Source::Env(name), text)?;
        }
        Ok(())
    }

    pub fn set(
        &mut self,
        at: usize,
        spelling: Spelling,
        source: Source,
        text: String,
    ) -> Result<(), UsageError> {
        let kind = if spelling == Spelling::Gate { Kind::Bool } else { kind(at) };
        let value = kind.read(&text).map_err(|rule| invalid(&source, &text, &rule))?;
        match spelling {
            Spelling::Today => {}
            Spelling::Experimental => self.warnings.push(format!(
                "{} is the old name of --{}",
                shown(&source),
                FLAGS.get(at).map_or("", |f| f.name)
            )),
            Spelling::Gate => {
                self.warnings.push(format!("{} has no effect", shown(&source)));
                return Ok(());
            }
        }
        if let Some(slot) = self.given.get_mut(at) {
            *slot = Given { source, text, value };
        }
        Ok(())
    }

    /// Warns of flags without effect and refuses those that must not be ignored.
    pub fn check_effects(&mut self) -> Result<(), UsageError> {
        let given: Vec<_> = FLAGS
            .iter()
            .zip(&self.given)
            .filter(|(_, given)| given.source != Source::Default)
            .map(|(flag, given)| {
                (flag, shown(&given.source), given.text.clone(), given.value.clone())
            })
            .collect();
        for (flag, name, text, value) in given {
            let changed = flag.kind.read(flag.default).as_ref() != Ok(&value);
            match flag.effect {
                Effect::Obeyed(..) => {}
                Effect::None(why) if changed => {
                    self.warnings.push(format!("{name} {text:?} has no effect: {why}"));
                }
                Effect::Legacy => {
                    self.warnings.push(format!("{name} is no longer supported - ignoring"));
                }
                Effect::None(_) => {}
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&Given> {
        FLAGS.iter().zip(&self.given).find(|(flag, _)| flag.name == name).map(|(_, given)| given)
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|given| given.source != Source::Default)
    }

    pub fn bool(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Given { value: Value::Bool(true), .. }))
    }

    pub fn uint(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(Given { value: Value::Uint(n), .. }) => *n,
            _ => 0,
        }
    }

    pub fn int(&self, name: &str) -> i64 {
        match self.get(name) {
            Some(Given { value: Value::Int(n), .. }) => *n,
            _ => 0,
        }
    }

    pub fn duration_ns(&self, name: &str) -> i64 {
        match self.get(name) {
            Some(Given { value: Value::Duration(ns), .. }) => *ns,
            _ => 0,
        }
    }

    pub fn text(&self, name: &str) -> &str {
        self.get(name).map_or("", |given| &given.text)
    }

    pub fn urls(&self, name: &str) -> Vec<super::Url> {
        match self.get(name) {
            Some(Given { value: Value::Urls(urls), .. }) => urls.clone(),
            _ => Vec::new(),
        }
    }

    /// The error that the value of this flag breaks `rule`.
    pub fn invalid(&self, name: &str, rule: &str) -> UsageError {
        match self.get(name) {
            Some(Given { source: Source::Default, text, .. }) => {
                invalid(&Source::Flag(name.to_owned()), text, rule)
            }
            Some(given) => invalid(&given.source, &given.text, rule),
            None => err(rule.to_owned()),
        }
    }
}

pub fn kind(at: usize) -> Kind {
    FLAGS.get(at).map_or(Kind::Text, |flag| flag.kind)
}

fn shown(source: &Source) -> String {
    match source {
        Source::Default => "the default".to_owned(),
        Source::Flag(name) => format!("--{name}"),
        Source::Env(name) | Source::File(name) => name.clone(),
    }
}

fn invalid(source: &Source, text: &str, rule: &str) -> UsageError {
    let place = match source {
        Source::Default => "the default".to_owned(),
        Source::Flag(name) => format!("flag -{name}"),
        Source::Env(name) | Source::File(name) => name.clone(),
    };
    err(format!("invalid value {text:?} for {place}: {rule}"))
}
