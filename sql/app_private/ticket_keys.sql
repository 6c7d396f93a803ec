create table if not exists app_private.ticket_keys (
  kid       integer     not null,
  ipad      bytea       not null,
  opad      bytea       not null,
  not_after timestamptz,
  binding   text        not null default 'backend',

  constraint ticket_keys_pkey primary key (kid),
  constraint ticket_keys_kid_positive check (kid between 1 and 999999999),
  constraint ticket_keys_pads_are_blocks check (length(ipad) = 64 and length(opad) = 64),
  constraint ticket_keys_binding_known check (binding in ('backend', 'none'))
);

comment on table app_private.ticket_keys is
  'Keys that verify tickets, already padded for HMAC-SHA256 (RFC 2104). No role of the shell can read them.';
comment on column app_private.ticket_keys.kid is 'The number that a ticket names.';
comment on column app_private.ticket_keys.ipad is 'Key xor 0x36, padded to 64 bytes.';
comment on column app_private.ticket_keys.opad is 'Key xor 0x5c, padded to 64 bytes.';
comment on column app_private.ticket_keys.not_after is
  'When tickets of this key stop being accepted; null while it is in use.';
comment on column app_private.ticket_keys.binding is
  'backend: its tickets are good for the one backend that they name. none: they may name none, which a transaction '
  'pooler needs, for no client behind it knows its backend. See ops.ticket_key_set.';
