"""The functions that a typed question may call: those that compute from their arguments and nothing else.

A list of what is allowed, not of what is forbidden: ClickHouse gains functions with every version, and among its 1,500
are some that read files, call other servers, ask language models, sleep, or tell about the machine.
"""

from __future__ import annotations

import re
from typing import Final

_NAMES: Final = """
abs acos age any anyheavy anylast argmax argmin array arrayall arrayavg arraycompact arrayconcat arraycount arraycumsum
arraydifference arraydistinct arrayelement arrayenumerate arrayenumerateuniq arrayexists arrayfilter arrayfirst
arrayfirstindex arrayflatten arrayintersect arrayjoin arraylast arraylastindex arraymap arraymax arraymin arraypopback
arraypopfront arrayproduct arraypushback arraypushfront arrayreverse arrayreversesort arrayslice arraysort
arraystringconcat arraysum arrayuniq arrayzip asin assumenotnull atan avg avgweighted
bar bin bitand bitcount bitnot bitor bittest bitxor
cast cbrt ceil ceiling char_length character_length cityhash64 clamp coalesce concat concatwithseparator corr cos count
countequal countmatches countsubstrings covarpop covarsamp
date date_add date_diff date_format date_sub date_trunc dateadd datediff datename datesub datetrunc day dayofmonth
dayofweek dayofyear dense_rank denserank divide domain domainwithoutwww
e empty endswith entropy equals exp exp10 exp2 extract extractall extractgroups
farmhash64 first_value flatten floor format formatdatetime formatreadabledecimalsize formatreadablequantity
formatreadablesize formatreadabletimedelta fromunixtimestamp
gcd generateuuidv4 greater greaterorequals greatest grouparray grouparraylast grouparraysample grouparraysorted
grouping groupuniqarray
has hasall hasany hastoken hex histogram hour
identity if ifnotfinite ifnull ilike indexof inthash32 inthash64 intdiv intdivorzero intervallengthsum isfinite
isinfinite isnan isnotnull isnull isvalidutf8
jsonextract jsonextractbool jsonextractfloat jsonextractint jsonextractraw jsonextractstring jsonextractuint jsonhas
jsonlength jsontype
kurtpop kurtsamp lag laginframe last_value lcase lcm lead leadinframe least left length lengthutf8 less lessorequals
like ln locate log log10 log1p log2 lower lowerutf8 ltrim
makedate makedatetime map mapcontains mapkeys mapvalues match materialize max maxmap md5 median min minmap minus
minute mod modulo month monthname multiif multimatchany multiply multisearchany
negate neighbor ngramdistance not notempty notequals notlike now now64 nth_value ntile nullif
parsedatetimebesteffort parsedatetimebesteffortornull parsedatetimebesteffortorzero path percent_rank pi plus position
positioncaseinsensitive positionutf8 positivemodulo pow power protocol
quantile quantileexact quantileexactweighted quantiles quantilesexact quantilestdigest quantilestiming quantiletdigest
quantiletiming quarter
rand rand64 range rank reinterpretasuint64 replace replaceall replaceone replaceregexpall replaceregexpone retention
reverse reverseutf8 right round roundage roundbankers rounddown roundduration roundtoexp2 row_number
rownumberinallblocks rownumberinblock rtrim runningdifference
second sequencecount sequencematch sign simplejsonextractint simplejsonextractstring simplelinearregression sin
siphash64 skewpop skewsamp sparkbar splitbychar splitbyregexp splitbystring sqrt startswith stddevpop stddevsamp
studentttest substr substring substringutf8 subtractdays subtracthours subtractminutes subtractmonths
subtractquarters subtractseconds subtractweeks subtractyears sum sumcount sumkahan summap sumwithoverflow
adddays addhours addminutes addmonths addquarters addseconds addweeks addyears
tan timediff timeslot timeslots timestamp_add timestamp_diff timestamp_sub timezone timezoneof timezoneoffset
tobool todayofmonth todayofweek todayofyear tohour toisoweek toisoyear tolastdayofmonth tomillisecond tominute tomonday
tomonth toquarter torelativedaynum torelativehournum torelativeminutenum torelativemonthnum torelativequarternum
torelativesecondnum torelativeweeknum torelativeyearnum tosecond tostartofday tostartoffifteenminutes
tostartoffiveminute tostartoffiveminutes tostartofhour tostartofinterval tostartofisoyear tostartofminute
tostartofmonth tostartofquarter tostartofsecond tostartoftenminutes tostartofweek tostartofyear totime totimezone
totypename tounixtimestamp toweek toyear toyearweek toyyyymm toyyyymmdd toyyyymmddhhmmss today tojsonstring
tolowcardinality tonullable
tofixedstring topk topkweighted transform trim trimboth trimleft trimright trunc truncate tuple tupleelement
ucase unhex uniq uniqcombined uniqcombined64 uniqexact uniqhll12 uniqthetasketch uniqupto upper upperutf8
uuidnumtostring uuidstringtonum varpop varsamp welchttest windowfunnel xor xxhash64 year yesterday
"""

ALLOWED_FUNCTIONS: Final = frozenset(_NAMES.split())

_CONVERSION: Final = re.compile(
    r"to(u?int(8|16|32|64|128|256)|float(32|64)|decimal(32|64|128)|date(32|time|time64)?|string|uuid"
    r"|interval(second|minute|hour|day|week|month|quarter|year))(ornull|orzero|ordefault)?"
)
_COMBINATORS: Final = ("if", "array", "distinct", "ornull", "ordefault", "foreach", "map")


def is_allowed_function(name: str) -> bool:
    """Tell whether a function may be called; aggregate functions also with combinators, as in ``sumIf``."""
    lowered = name.lower()
    if lowered in ALLOWED_FUNCTIONS or _CONVERSION.fullmatch(lowered):
        return True
    return any(
        lowered.endswith(suffix) and is_allowed_function(lowered.removesuffix(suffix)) for suffix in _COMBINATORS
    )
