create table if not exists ops.audit_log (
  id         uuid        not null default app_private.uuid_v7(),
  created_at timestamptz not null default now(),
  actor      text        not null default session_user,
  action     text        not null,
  subject    text        not null,
  reason     text        not null,
  before     jsonb,
  after      jsonb,

  constraint audit_log_pkey primary key (id),
  constraint audit_log_reason_given check (length(btrim(reason)) >= 3)
);

comment on table ops.audit_log is 'Every change that a person made through a function of ops. Append only.';
comment on column ops.audit_log.id is 'UUIDv7: also the order of changes.';
comment on column ops.audit_log.created_at is 'When it was made.';
comment on column ops.audit_log.actor is 'The login that made it.';
comment on column ops.audit_log.action is 'The function that was called.';
comment on column ops.audit_log.subject is 'What it changed: a tenant, a model.';
comment on column ops.audit_log.reason is 'Why, in the words of the person.';
comment on column ops.audit_log.before is 'What stood before; null for something new.';
comment on column ops.audit_log.after is 'What stands now.';

grant select on ops.audit_log to holdfast_ops;
grant insert on ops.audit_log to holdfast_system;
