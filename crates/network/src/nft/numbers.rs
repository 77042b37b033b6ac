//! The numbers of linux/netfilter/nf_tables.h: kinds of messages, and attributes by what has them. Whoever writes a thing and
//! whoever reads it back name the same.

/// `NFNL_SUBSYS_NFTABLES`, where kinds have it.
pub const SUBSYSTEM: u16 = 10 << 8;
/// `NFNL_MSG_BATCH_END`.
pub const BATCH_END: u16 = 0x11;

pub const NEWTABLE: u16 = SUBSYSTEM;
pub const GETTABLE: u16 = SUBSYSTEM | 1;
pub const DELTABLE: u16 = SUBSYSTEM | 2;
pub const NEWCHAIN: u16 = SUBSYSTEM | 3;
pub const GETCHAIN: u16 = SUBSYSTEM | 4;
pub const DELCHAIN: u16 = SUBSYSTEM | 5;
pub const NEWRULE: u16 = SUBSYSTEM | 6;
pub const GETRULE: u16 = SUBSYSTEM | 7;
pub const DELRULE: u16 = SUBSYSTEM | 8;
pub const NEWSET: u16 = SUBSYSTEM | 9;
pub const GETSET: u16 = SUBSYSTEM | 10;
pub const DELSET: u16 = SUBSYSTEM | 11;
pub const NEWSETELEM: u16 = SUBSYSTEM | 12;
pub const GETSETELEM: u16 = SUBSYSTEM | 13;
pub const DELSETELEM: u16 = SUBSYSTEM | 14;
pub const NEWGEN: u16 = SUBSYSTEM | 15;

/// Of whatever is in a table: the table's name. Of a table: its own.
pub const TABLE: u16 = 1;

/// Of a chain.
pub const CHAIN_NAME: u16 = 3;
pub const CHAIN_HOOK: u16 = 4;
pub const CHAIN_POLICY: u16 = 5;
pub const CHAIN_TYPE: u16 = 7;
/// Of a chain's hook.
pub const HOOK_NUMBER: u16 = 1;
pub const HOOK_PRIORITY: u16 = 2;

/// Of a rule.
pub const RULE_CHAIN: u16 = 2;
pub const RULE_HANDLE: u16 = 3;
pub const RULE_EXPRESSIONS: u16 = 4;
pub const RULE_USERDATA: u16 = 7;
/// The kind of a rule's note that is a comment.
pub const COMMENT: u8 = 0;
/// Of an expression.
pub const EXPR_NAME: u16 = 1;
pub const EXPR_DATA: u16 = 2;
/// Of the expression `immediate`.
pub const IMMEDIATE_DATA: u16 = 2;

/// Of a set.
pub const SET_NAME: u16 = 2;
/// Of a set's elements.
pub const ELEMENTS_SET: u16 = 2;
pub const ELEMENTS_LIST: u16 = 3;
/// Of an element.
pub const ELEMENT_KEY: u16 = 1;
pub const ELEMENT_DATA: u16 = 2;

/// Of any list: one of its members.
pub const LIST_ELEM: u16 = 1;
/// Of data.
pub const DATA_VALUE: u16 = 1;
pub const DATA_VERDICT: u16 = 2;
/// Of a verdict.
pub const VERDICT_CODE: u16 = 1;
pub const VERDICT_CHAIN: u16 = 2;
