create table if not exists app.events (
  tenant_id  uuid        not null,
  id         uuid        not null default app_private.uuid_v7(),
  type       text        not null,
  subject_id uuid,
  data       jsonb       not null default '{}',
  created_at timestamptz not null default now(),

  constraint events_pkey primary key (tenant_id, id),
  constraint events_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint events_type_dotted check (type ~ '^[a-z_]+(\.[a-z_]+)+$')
) partition by range (id);

comment on table app.events is
  'The one outbox: what happened, written in the transaction in which it happened. Append only.';
comment on column app.events.tenant_id is 'Whose event it is.';
comment on column app.events.id is 'UUIDv7: also the order of events.';
comment on column app.events.type is 'Dotted, past tense: import.published, run.failed, budget.refused.';
comment on column app.events.subject_id is 'The row that it is about.';
comment on column app.events.data is 'Facts; never a secret, a prompt or a ticket.';
comment on column app.events.created_at is 'When the transaction began.';

call app_private.isolate('app.events', for_system => true);
call app_private.fence('app.events');
grant select, insert on app.events to holdfast_system;
