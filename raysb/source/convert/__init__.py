"""Pictures in folders and archives, CSV and parquet, to parquet that streams well."""

from raysb.source.convert.labels import read_classes as read_classes
from raysb.source.convert.settings import Convert as Convert
from raysb.source.convert.write import Converted as Converted
from raysb.source.convert.write import convert as convert
