create or replace function app.cost_import_publish(tenant_id uuid, ticket text, import_id uuid)
returns table (
  line_count bigint, flagged_count bigint, flags jsonb, period_count integer, replaced_lines bigint,
  replaced_files text[])
language plpgsql
security definer  -- the shell may not move the pointer
set search_path = ''
as $$
declare
  v_import         app.cost_imports;
  v_periods        integer;
  v_replaced_lines bigint;
  v_replaced_files text[];
begin
  perform app.enter(tenant_id, ticket);
  v_import := app_private.cost_import_open(tenant_id, import_id, 'LOADED');
  -- Publishers go one after another, so each can say what it took from the one before. Of all that is in the key nothing
  -- is the caller's choice: a source can be found for every key, also for that of another tenant.
  perform pg_advisory_xact_lock(hashtextextended(tenant_id::text, 0));

  with taken as (
    select distinct p.import_id, p.billing_period_start
    from app.cost_daily as d
    join app.cost_periods as p
      on p.tenant_id = d.tenant_id
        and p.source = v_import.source
        and p.billing_period_start = d.billing_period_start
    where d.tenant_id = cost_import_publish.tenant_id and d.import_id = cost_import_publish.import_id
  )
  select coalesce(sum(d.line_count), 0), coalesce(array_agg(distinct i.file_name), '{}')
  into v_replaced_lines, v_replaced_files
  from taken as t
  join app.cost_imports as i on i.tenant_id = cost_import_publish.tenant_id and i.id = t.import_id
  join app.cost_daily as d
    on d.tenant_id = i.tenant_id and d.import_id = i.id and d.billing_period_start = t.billing_period_start;

  insert into app.cost_periods as p (tenant_id, source, billing_period_start, import_id)
  select distinct d.tenant_id, v_import.source, d.billing_period_start, d.import_id
  from app.cost_daily as d
  where d.tenant_id = cost_import_publish.tenant_id and d.import_id = cost_import_publish.import_id
  on conflict on constraint cost_periods_pkey
    do update set import_id = excluded.import_id, published_at = excluded.published_at;
  get diagnostics v_periods = row_count;

  -- When a superseded import was finished stays known: that was when it was published.
  update app.cost_imports as i
  set status = case when i.id = cost_import_publish.import_id then 'PUBLISHED' else 'SUPERSEDED' end,
      finished_at = coalesce(i.finished_at, now())
  where i.tenant_id = cost_import_publish.tenant_id
    and (i.id = cost_import_publish.import_id
      or (i.status = 'PUBLISHED'
        and not exists (select from app.cost_periods as p
          where p.tenant_id = i.tenant_id and p.import_id = i.id)));

  perform app_private.event_add(tenant_id, 'import.published', import_id, jsonb_build_object(
    'source', v_import.source, 'lines', v_import.line_count, 'flagged', v_import.flagged_count,
    'periods', v_periods, 'replaced_lines', v_replaced_lines));

  return query select v_import.line_count, v_import.flagged_count, v_import.flags, v_periods,
    v_replaced_lines, v_replaced_files;
end
$$;

comment on function app.cost_import_publish is
  'Makes a rolled-up import the truth for each billing period that it has lines of, in one short '
  'transaction; what was there before from the same source is superseded and swept later. Answers how many '
  'lines it took the place of, and the names of the files that they came with. Raises IM101, IM201.';

grant execute on function app.cost_import_publish to holdfast_service, holdfast_worker;
