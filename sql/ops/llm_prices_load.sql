set local role holdfast_system;

create or replace function ops.llm_prices_load(
  rows jsonb, source text, reason text, dry_run boolean default false, overwrite boolean default false)
returns table (
  change text, provider text, model text, service_tier text, unit text, prompt_tokens int8range,
  valid tstzrange, before_usd_per_million numeric, after_usd_per_million numeric)
language plpgsql
security definer  -- prices are for all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_wanted  constant app.llm_prices[] := app_private.llm_prices_read(rows, source);
  v_changes jsonb;
  v_put     app.llm_prices[];
  v_now     timestamptz;
begin
  perform app_private.reason_check(reason);
  if not dry_run then
    lock table app.llm_prices in share row exclusive mode;
  end if;
  v_now := pg_catalog.clock_timestamp();
  select pg_catalog.jsonb_agg(pg_catalog.to_jsonb(c)),
         array_agg(c.price) filter (where c.change in ('new', 'changed', 'corrected'))
  into v_changes, v_put
  from app_private.llm_prices_compare(v_wanted, v_now, overwrite) as c;

  if not dry_run and v_put is not null then
    perform app_private.llm_prices_put(v_put, v_now);
    insert into ops.audit_log (action, subject, reason, after)
    select 'llm_prices_load', source, reason, pg_catalog.jsonb_object_agg(n.change, n.prices)
    from (
      select c.value ->> 'change' as change, pg_catalog.jsonb_agg(t.said order by t.said) as prices
      from pg_catalog.jsonb_array_elements(v_changes) as c
      cross join lateral concat_ws(' ',
        c.value #>> '{price,provider}', c.value #>> '{price,model}', c.value #>> '{price,unit}',
        c.value #>> '{price,prompt_tokens}', c.value ->> 'before_usd_per_million', '->',
        c.value #>> '{price,usd_per_million}') as t (said)
      where c.value ->> 'change' in ('new', 'changed', 'corrected')
      group by 1) as n;
  end if;

  return query
  select c.value ->> 'change', p.provider, p.model, p.service_tier, p.unit, p.prompt_tokens, p.valid,
         (c.value ->> 'before_usd_per_million')::numeric,
         case when c.value ->> 'change' <> 'vanished' then p.usd_per_million end
  from pg_catalog.jsonb_array_elements(v_changes) as c
  cross join lateral pg_catalog.jsonb_populate_record(null::app.llm_prices, c.value -> 'price') as p
  order by 1 desc, 2, 3, 4, 5, 6;
end
$$;

comment on function ops.llm_prices_load is
  'Takes a list of prices, for all tenants; sql/prices/ has such lists. What is equal stays. A price that differs holds from now '
  'on, or from the day that its row names; one whose day has passed corrects what was believed since, and holds are settled '
  'with what they were made with. kept: a person has set the price of that model, and it stays unless overwrite. vanished: '
  'the list has it no more; it stays. Audited; dry_run shows the changes without making them. Raises OP101, OP102.';

grant execute on function ops.llm_prices_load to holdfast_ops;

set local role holdfast_owner;
