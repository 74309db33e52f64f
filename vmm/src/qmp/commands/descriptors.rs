//! Commands for descriptors that come with them.

use super::{Answer, Context, DONE, done};
use crate::qmp::error::Error;
use crate::qmp::schema::{NOTHING, Object, Type, may, needs, object};
use crate::qmp::table::{Arguments, Row};

pub static ROWS: &[Row] = &[
    Row { name: "getfd", arguments: &GETFD, returns: DONE, oob: false, run: getfd },
    Row { name: "closefd", arguments: &CLOSEFD, returns: DONE, oob: false, run: closefd },
    Row { name: "add-fd", arguments: &ADD, returns: Type::Object(&ADDED), oob: false, run: add_fd },
    Row { name: "remove-fd", arguments: &REMOVE, returns: DONE, oob: false, run: remove_fd },
    Row {
        name: "query-fdsets",
        arguments: &NOTHING,
        returns: Type::Array(&Type::Object(&SET)),
        oob: false,
        run: query_fdsets,
    },
];

static GETFD: Object = object("getfd-arg", &[needs("fdname", Type::Str)]);
static CLOSEFD: Object = object("closefd-arg", &[needs("fdname", Type::Str)]);
static ADD: Object = object("add-fd-arg", &[may("fdset-id", Type::Int), may("opaque", Type::Str)]);
static ADDED: Object = object("AddfdInfo", &[needs("fdset-id", Type::Int), needs("fd", Type::Int)]);
static REMOVE: Object = object("remove-fd-arg", &[needs("fdset-id", Type::Int), may("fd", Type::Int)]);
static SET: Object = object(
    "FdsetInfo",
    &[needs("fdset-id", Type::Int), needs("fds", Type::Array(&Type::Object(&DESCRIPTOR)))],
);
static DESCRIPTOR: Object = object("FdsetFdInfo", &[needs("fd", Type::Int), may("opaque", Type::Str)]);

fn getfd(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    context.client.descriptors.keep(arguments.required("fdname"))?;
    Ok(done())
}

fn closefd(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    context.client.descriptors.close(arguments.required("fdname"))?;
    Ok(done())
}

fn add_fd(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    let (id, opaque) = (arguments.int("fdset-id"), arguments.text("opaque"));
    let added = context.shared.sets.add(&mut context.client.descriptors, id, opaque)?;
    Ok(Answer::Now(added))
}

fn remove_fd(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    let id = arguments.int("fdset-id").expect("the row requires it");
    context.shared.sets.remove(id, arguments.int("fd"))?;
    Ok(done())
}

fn query_fdsets(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(context.shared.sets.list()))
}
