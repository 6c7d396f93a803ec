create or replace function app_private.llm_rest(held app.llm_reservations, counted_as text) returns bigint
language sql
immutable
parallel safe
return case when (held).status = counted_as
  then greatest(0, (held).estimated_cost_nanousd - (held).settled_nanousd) else 0 end;

comment on function app_private.llm_rest is
  'What of a hold still counts as RESERVED or PRESUMED, in nano-USD: what of it was not settled yet.';

grant execute on function app_private.llm_rest to holdfast_system;
