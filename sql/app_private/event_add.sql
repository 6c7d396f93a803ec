create or replace function app_private.event_add(
  tenant_id uuid, type text, subject_id uuid, data jsonb default '{}')
returns void
language sql
set search_path = ''
as $$
  insert into app.events (tenant_id, type, subject_id, data) values ($1, $2, $3, $4)
$$;

comment on function app_private.event_add is 'Appends to the outbox, in the transaction of what happened.';

grant execute on function app_private.event_add to holdfast_system;
