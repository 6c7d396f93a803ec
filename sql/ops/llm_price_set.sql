set local role holdfast_system;

create or replace function ops.llm_price_set(
  provider text, model text, input_usd_per_million numeric, output_usd_per_million numeric, reason text,
  cached_input_usd_per_million numeric default null, dry_run boolean default false)
returns table (unit text, before_usd_per_million numeric, after_usd_per_million numeric)
language plpgsql
security definer  -- prices are for all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_now    constant timestamptz := pg_catalog.clock_timestamp();
  v_after  constant jsonb := pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
    'input', input_usd_per_million, 'cached_input', cached_input_usd_per_million,
    'output', output_usd_per_million));
  v_before jsonb;
begin
  perform app_private.reason_check(reason);
  if coalesce(pg_catalog.length(provider), 0) not between 1 and 200
    or coalesce(pg_catalog.length(model), 0) not between 1 and 200
    or not coalesce(input_usd_per_million between 0 and 100000
      and output_usd_per_million between 0 and 100000, false)
    or not coalesce(cached_input_usd_per_million between 0 and input_usd_per_million, true)
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      hint    =
        'Prices are 0 to 100,000 US dollars per million tokens, and cached input costs no more than input.';
  end if;

  select coalesce(pg_catalog.jsonb_object_agg(p.unit, p.usd_per_million), '{}') into v_before
  from app.llm_prices as p
  where p.provider = llm_price_set.provider and p.model = llm_price_set.model and p.valid @> v_now;

  if not dry_run then
    -- The versions that stand end now; holds that were made with them are settled with them.
    update app.llm_prices as p
    set valid = tstzrange(lower(p.valid), v_now)
    where p.provider = llm_price_set.provider and p.model = llm_price_set.model and p.valid @> v_now;

    insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
    select llm_price_set.provider, llm_price_set.model, n.key, n.value::numeric, tstzrange(v_now, null),
           'ops: ' || session_user
    from pg_catalog.jsonb_each_text(v_after) as n;

    insert into ops.audit_log (action, subject, reason, before, after)
    values ('llm_price_set', provider || '/' || model, reason, nullif(v_before, '{}'), v_after);
  end if;

  return query
  select u.unit, (v_before ->> u.unit)::numeric, (v_after ->> u.unit)::numeric
  from unnest(array['input', 'cached_input', 'output']) as u (unit)
  where v_before ? u.unit or v_after ? u.unit;
end
$$;

comment on function ops.llm_price_set is
  'Sets the price of a model from now on, in US dollars per million tokens, for all tenants; audited. dry_run shows '
  'the change without making it. Raises OP101, OP102.';

grant execute on function ops.llm_price_set to holdfast_ops;

set local role holdfast_owner;
