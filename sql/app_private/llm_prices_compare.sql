create or replace function app_private.llm_prices_compare(
  wanted app.llm_prices[], at timestamptz, overwrite boolean)
returns table (change text, price app.llm_prices, before_usd_per_million numeric)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select case when m.by_hand and overwrite is not true then 'kept'
              when not m.known then 'new'
              when lower(n.valid) >= at then 'changed'
              else 'corrected' end,
         pg_catalog.jsonb_populate_record(w, pg_catalog.jsonb_build_object('valid', n.valid)),
         u.before
  from unnest(wanted) as w
  cross join lateral (
    select coalesce(bool_or(s.source like 'ops: %' and s.valid && tstzrange(at, null)), false) as by_hand,
           coalesce(bool_or(s.unit = w.unit), false) as known
    from app.llm_prices as s
    where s.provider = w.provider and s.model = w.model and s.service_tier = w.service_tier
      and s.corrected_at = 'infinity') as m
  -- Without a date, a price that differs holds from now on: what was believed of the past stays.
  cross join lateral (
    select case when m.known and lower_inf(w.valid) then w.valid * tstzrange(at, null) else w.valid end
      as valid) as n
  cross join lateral (
    select coalesce(range_agg(s.valid) filter (where s.usd_per_million = w.usd_per_million
             and s.prompt_tokens = w.prompt_tokens
             and not (s.source like 'ops: %' and overwrite is true)) @> n.valid, false) as held,
           max(s.usd_per_million) filter (where s.prompt_tokens && w.prompt_tokens
             and s.valid @> case when n.valid @> at then at else lower(n.valid) end) as before
    from app.llm_prices as s
    where s.provider = w.provider and s.model = w.model and s.service_tier = w.service_tier
      and s.unit = w.unit and s.corrected_at = 'infinity') as u
  where not isempty(n.valid) and not u.held;

  return query
  select 'vanished', s, s.usd_per_million
  from app.llm_prices as s
  where s.valid @> at and s.corrected_at = 'infinity'
    and split_part(s.source, ' ', 1) in (select split_part(w.source, ' ', 1) from unnest(wanted) as w)
    and (s.provider, s.model, s.service_tier, s.unit)
      not in (select w.provider, w.model, w.service_tier, w.unit from unnest(wanted) as w);
end
$$;

comment on function app_private.llm_prices_compare is
  'How a list of prices differs from those that stand: new, changed (from now or a later day on), corrected (from a day that '
  'has passed), kept (a person has set the price of that model; overwrite takes it, an equal one too), vanished (the same '
  'source has it no more; it stands). What is equal is not answered.';

grant execute on function app_private.llm_prices_compare to holdfast_system;
