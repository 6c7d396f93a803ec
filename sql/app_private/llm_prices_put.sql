create or replace function app_private.llm_prices_put(wanted app.llm_prices[], at timestamptz) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_rests app.llm_prices[] := '{}'::app.llm_prices[];
  v_old   record;
begin
  for v_old in
    select s as price, g.gone, g.lengths,
           -- What holds only from now on, or later, ends a version; what reaches back says that it was wrong.
           coalesce(lower(g.gone) >= at
             and (lower_inf(s.valid) or lower(s.valid) < lower(g.gone)), false) as ends
    from app.llm_prices as s
    cross join lateral (
      select range_agg(w.valid) as gone, range_agg(w.prompt_tokens) as lengths
      from unnest(wanted) as w
      where w.provider = s.provider and w.model = s.model and w.service_tier = s.service_tier
        and w.unit = s.unit and w.valid && s.valid and w.prompt_tokens && s.prompt_tokens) as g
    where (s.provider, s.model) in (select w.provider, w.model from unnest(wanted) as w)
      and s.corrected_at = 'infinity' and g.gone is not null
  loop
    update app.llm_prices as p
    set valid = case when v_old.ends then tstzrange(lower(p.valid), lower(v_old.gone)) else p.valid end,
        corrected_at = case when v_old.ends then p.corrected_at else at end
    where p.id = (v_old.price).id;

    -- What it said of other times, and of prompts of other lengths, stands.
    v_rests := v_rests || array(
      select pg_catalog.jsonb_populate_record(v_old.price, pg_catalog.jsonb_build_object(
        'id', app_private.uuid_v7(), 'valid', r.valid, 'prompt_tokens', r.lengths, 'known_at', at))
      from (
        select t.valid, (v_old.price).prompt_tokens as lengths
        from unnest(tstzmultirange((v_old.price).valid) - v_old.gone) as t (valid)
        where not (v_old.ends and t.valid << tstzrange(lower(v_old.gone), null))
        union all
        select t.valid, p.lengths
        from unnest(tstzmultirange((v_old.price).valid) * v_old.gone) as t (valid)
        cross join unnest(int8multirange((v_old.price).prompt_tokens) - v_old.lengths) as p (lengths)) as r);
  end loop;

  insert into app.llm_prices (provider, model, service_tier, unit, prompt_tokens, usd_per_million, valid,
    simulated, source, known_at)
  select n.provider, n.model, n.service_tier, n.unit, n.prompt_tokens, n.usd_per_million, n.valid,
         coalesce(n.simulated, false), n.source, at
  from unnest(v_rests || wanted) as n
  where n.usd_per_million is not null;
end
$$;

comment on function app_private.llm_prices_put is
  'Makes these prices the ones that stand: a version that one of them takes the place of from now on ends there; one that was '
  'wrong before is corrected, and what it said of other times and lengths of prompt is said anew. One without a price only '
  'ends what stands. Holds keep the versions that they were made with. The caller has locked the table.';

grant execute on function app_private.llm_prices_put to holdfast_system;
