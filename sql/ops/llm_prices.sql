set local role holdfast_system;

create or replace view ops.llm_prices as
with rates as (
  select p.provider, p.model, p.service_tier, p.prompt_tokens, p.unit, trim_scale(p.usd_per_million) as usd,
         upper(p.valid) as until
  from app.llm_prices as p
  where p.valid @> now() and p.corrected_at = 'infinity'
)
select r.provider, r.model,
       concat_ws(' ', nullif(r.service_tier, 'standard'),
         case when lower(r.prompt_tokens) > 0 then '>=' || lower(r.prompt_tokens) end,
         '<' || upper(r.prompt_tokens)) as tier,
       max(r.usd) filter (where r.unit = 'input') as input,
       max(r.usd) filter (where r.unit = 'cached_input') as cached,
       max(r.usd) filter (where r.unit = 'cache_write_5m') as write,
       max(r.usd) filter (where r.unit = 'output') as output,
       concat_ws(', ',
         string_agg(replace(r.unit, 'cache_', '') || ' ' || r.usd, ', ' order by r.unit)
           filter (where r.unit not in ('input', 'cached_input', 'cache_write_5m', 'output')),
         'until ' || to_char(min(r.until), 'YYYY-MM-DD')) as more
from rates as r
group by r.provider, r.model, r.service_tier, r.prompt_tokens
order by r.provider, r.model, r.service_tier, r.prompt_tokens;

comment on view ops.llm_prices is
  'What models cost now, in US dollars per million of each unit. tier is the service tier and the lengths of prompt that a row is '
  'for, write is a cache write of five minutes, more has the other units and the day of a change that is known. Change one '
  'with ops.llm_price_set.';

grant select on ops.llm_prices to holdfast_ops;

set local role holdfast_owner;
